"""LFW through the recognizer that serves, embedded once for several measurements."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.cli.evaluate import model_facts, photo_embedder
from service.engine import load_engine
from service.evaluation.cache import cached
from service.evaluation.photos import embed_photos, persons_of
from service.runtime.networks import available_cores
from service.settings import Settings


@dataclass(frozen=True, eq=False)
class Embedded:
    """The photos in which a face was found: ``names``, ``embeddings`` (n, d), ``feature_norms`` (n,), ``persons`` (n,)
    numbers, and what embedded them."""

    names: tuple[str, ...]
    embeddings: NDArray[np.float32]
    persons: NDArray[np.int64]
    feature_norms: NDArray[np.float64]
    model: dict[str, Any]

    def of(self, chosen: NDArray[np.int64]) -> "Embedded":
        """Only these persons, who keep their numbers."""
        rows = np.flatnonzero(np.isin(self.persons, chosen))
        names = tuple(self.names[row] for row in rows)
        return Embedded(names, self.embeddings[rows], self.persons[rows], self.feature_norms[rows], self.model)


def arguments(about: str) -> argparse.ArgumentParser:
    """What such a measurement is told."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--bundle", default="open")
    parser.add_argument("--images", type=Path, required=True, help="folder of Name/Name_0001.jpg")
    parser.add_argument("--cache", type=Path, help=".npz that keeps the embeddings for the next time")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def embedded(args: argparse.Namespace, without: frozenset[str] = frozenset()) -> Embedded:
    """All photos but those of ``without``, names of photos or of persons."""
    engine = load_engine(Settings(data_dir=args.data_dir, bundle=args.bundle))
    names = sorted(path.relative_to(args.images).as_posix() for path in args.images.glob("*/*.jpg"))
    names = [name for name in names if name not in without and name.split("/")[0] not in without]
    model = model_facts(engine)
    photos = cached(
        lambda: embed_photos(photo_embedder(engine), args.images, names, available_cores()),
        names,
        f"{model['embedding_contract']} {model['detector']}",
        args.cache,
    )
    persons = persons_of(names)[1]
    there = np.flatnonzero(photos.detected)
    norms = np.full(len(names), np.nan) if photos.feature_norms is None else photos.feature_norms
    return Embedded(tuple(names[row] for row in there), photos.embeddings[there], persons[there], norms[there], model)
