"""Labeled Faces in the Wild through an embedder before and after, on the same crops: what a change of form costs."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.parity import Limits, require
from service.errors import InvalidRequest
from service.evaluation.lfw import read_pairs
from service.evaluation.metrics import cross_validated_accuracy
from service.evaluation.photos import EmbeddedFace, EmbeddedPhoto, PhotoSet, central_face, embed_photos, persons_of
from service.evaluation.verification import Pair, VerificationResult, named_in
from service.recognition.recognizer import Recognizer
from service.recognition.types import Embedder
from service.runtime.card import Accuracy
from service.runtime.networks import available_cores


@dataclass(frozen=True)
class Lfw:
    """Where the pairs are, and how many are enough.

    Attributes:
        folder: with ``images/Name/Name_0001.jpg`` and ``pairs.txt``.
        pairs: of all, the same share from each fold, genuine and impostor alike; 0 for all.
    """

    folder: Path
    pairs: int = 0


def compare_accuracy(lfw: Lfw, recognizer: Recognizer, before: Embedder, limits: Limits) -> Accuracy:
    """Ten folds through ``before`` and through the recognizer's own embedder.

    Raises:
        InvalidRequest: the folder does not hold what it should.
        BundleError: the accuracy falls by more than the limit.
    """
    file = lfw.folder / "pairs.txt"
    pairs = _some(read_pairs(file), lfw.pairs)
    names = named_in(pairs)
    joined = embed_photos(_Both(recognizer, before), lfw.folder / "images", names, available_cores())
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    halves = np.split(joined.embeddings * np.float32(np.sqrt(2)), 2, axis=1)
    persons = persons_of(names)[1]
    accuracy = [
        _accuracy(VerificationResult("lfw", pairs, replace(joined, embeddings=half), persons, True, file, digest))
        for half in halves
    ]
    require("the accuracy lost on LFW", accuracy[0] - accuracy[1], limits.max_accuracy_drop)
    return Accuracy(
        dataset="lfw",
        dataset_sha256=digest,
        pairs=len(pairs),
        before=accuracy[0],
        after=accuracy[1],
        min_cosine=_min_cosine(joined, halves),
    )


def _some(pairs: list[Pair], wanted: int) -> tuple[Pair, ...]:
    if wanted in (0, len(pairs)):
        return tuple(pairs)
    kinds: dict[tuple[int, bool], list[Pair]] = {}
    for pair in pairs:
        kinds.setdefault((pair.fold, pair.genuine), []).append(pair)
    each = wanted // len(kinds)
    if wanted % len(kinds) or not 1 <= each <= len(pairs) // len(kinds):
        raise InvalidRequest(
            f"{wanted} pairs cannot be taken from {len(pairs)} in {len(kinds) // 2} folds; give a multiple of "
            f"{len(kinds)}, or 0 for all."
        )
    return tuple(pair for kind in kinds.values() for pair in kind[:each])


class _Both:
    """Detects and aligns once, embeds twice: the two embeddings side by side, over √2 and so of unit length."""

    def __init__(self, recognizer: Recognizer, before: Embedder) -> None:
        self._recognizer = recognizer
        self._before = before

    def __call__(self, data: bytes, /) -> EmbeddedPhoto:
        image = self._recognizer.decode(data)
        faces = self._recognizer.detect(image)
        face = central_face(faces, image.width, image.height)
        crop = self._recognizer.crop(image, face)[None]
        both = np.concatenate([self._before(crop)[0][0], self._recognizer.embedder(crop)[0][0]])
        unit = (both / np.sqrt(2)).astype(np.float32)
        x1, y1, x2, y2 = (float(v) for v in face.box)
        return EmbeddedPhoto(image.width, image.height, [EmbeddedFace((x1, y1, x2, y2), unit)])


def _accuracy(result: VerificationResult) -> float:
    scores = result.similarity
    found = cross_validated_accuracy(scores, result.genuine, result.folds, np.isfinite(scores))
    return float(found.accuracy.mean())


def _min_cosine(photos: PhotoSet, halves: list[NDArray[np.float32]]) -> float:
    cosines = np.einsum("pd,pd->p", *halves, dtype=np.float64)
    return float(cosines[photos.detected].min())
