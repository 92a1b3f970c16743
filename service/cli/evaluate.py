"""``likeness evaluate``: published protocols through the recognizer that serves."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.cli.options import settings_of
from service.cli.photo_folder import persons_of
from service.engine import Engine, load_engine
from service.errors import InvalidRequest
from service.evaluation.bin_file import evaluate_bin
from service.evaluation.folder import prepare_folder
from service.evaluation.identities import evaluate_folder
from service.evaluation.lfw import evaluate_lfw
from service.evaluation.lfw_search import evaluate_lfw_search
from service.evaluation.photos import EmbeddedFace, EmbeddedPhoto, EmbedPhoto
from service.evaluation.report import summary, write_folder_report, write_report
from service.evaluation.search_report import search_summary, write_search_report
from service.evaluation.verification import VerificationResult
from service.recognition import types as recognition
from service.runtime.networks import available_cores


def add_command(commands: Any, local: argparse.ArgumentParser) -> None:
    """Register the sub-command and its protocols."""
    command = commands.add_parser("evaluate", help="measure accuracy on a published protocol or on your own photos")
    protocols = command.add_subparsers(required=True, metavar="PROTOCOL")

    def add(name: str, run: Callable[[argparse.Namespace], int], about: str) -> argparse.ArgumentParser:
        protocol: argparse.ArgumentParser = protocols.add_parser(name, parents=[local], help=about)
        protocol.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the report goes")
        protocol.add_argument("--workers", type=int, default=available_cores(), help="photos at once (default: cores)")
        protocol.set_defaults(run=run)
        return protocol

    lfw = add("lfw", run_lfw, "Labeled Faces in the Wild, verification, ten folds")
    lfw.add_argument("--pairs", type=Path, required=True, metavar="FILE", help="pairs.txt")
    search = add("lfw-search", run_lfw_search, "Labeled Faces in the Wild, identification, closed set and open set")
    for protocol in (lfw, search):
        protocol.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of Name/Name_0001.jpg")
    crops = add("bin", run_bin, "a verification set of InsightFace, such as cfp_fp.bin, ten folds")
    crops.add_argument("file", type=Path, metavar="FILE.bin", help="aligned crops and pairs of them")
    folder = add("folder", run_folder, "a folder with one sub-folder for each person, all pairs")
    folder.add_argument("folder", type=Path, metavar="DIR", help="folder of NAME/photo.jpg")
    folder.add_argument("--pairs", type=Path, metavar="FILE", help="only these, in the format of LFW's pairs.txt")
    for protocol in (lfw, crops, folder):
        protocol.add_argument(
            "--pca",
            type=int,
            nargs="?",
            const=0,
            metavar="K",
            help="also with a PCA of K components before the cosine (default: all), fitted to the other folds",
        )


def run_lfw(args: argparse.Namespace) -> int:
    """Measure, write the report, print its summary."""
    engine = _prepare(args)
    return _report(args, engine, evaluate_lfw(photo_embedder(engine), args.images, args.pairs, args.workers))


def run_bin(args: argparse.Namespace) -> int:
    """Measure, write the report, print its summary."""
    engine = _prepare(args)
    return _report(args, engine, evaluate_bin(crop_embedder(engine), args.file, args.workers))


def run_folder(args: argparse.Namespace) -> int:
    """Measure, write the report, print its summary."""
    if args.pca is not None and args.pairs is None:
        raise InvalidRequest("--pca is fitted to other folds than are tested, and all pairs have none; give --pairs")
    engine, folder = _prepare(args), args.folder
    embed = photo_embedder(engine)
    if args.pairs is not None:
        return _report(args, engine, evaluate_lfw(embed, folder, args.pairs, args.workers, folder.resolve().name))
    names = [photo.relative_to(folder).as_posix() for person in persons_of(folder) for photo in person.photos]
    result = evaluate_folder(embed, folder, names, args.workers)
    return _print(args, write_folder_report(result, args.out, model_facts(engine)), summary)


def run_lfw_search(args: argparse.Namespace) -> int:
    """Measure, write the report, print its summary."""
    engine = _prepare(args)
    result = evaluate_lfw_search(photo_embedder(engine), args.images, args.workers)
    return _print(args, write_search_report(result, args.out, model_facts(engine)), search_summary)


def photo_embedder(engine: Engine) -> EmbedPhoto:
    """The engine as the evaluation calls it: every face of an encoded photo."""

    def embed(data: bytes, /) -> EmbeddedPhoto:
        image, faces = engine.embed(data, "all")
        return EmbeddedPhoto(image.width, image.height, [_evaluated(embedded) for _, embedded in faces])

    return embed


def crop_embedder(engine: Engine) -> EmbedPhoto:
    """The engine for encoded crops that are aligned already: each is one face, as it is."""
    size = engine.card.contract.alignment.size

    def embed(data: bytes, /) -> EmbeddedPhoto:
        image = engine.recognizer.decode(data)
        if (image.width, image.height) != (size, size):
            raise InvalidRequest(
                f"a crop has {image.width} × {image.height} pixels, the bundle's have {size} × {size}; "
                "photos that are not aligned go into a folder for `likeness evaluate folder`"
            )
        [embedding], _ = engine.recognizer.embed_crops([image.pixels])
        return EmbeddedPhoto(size, size, [EmbeddedFace((0, 0, size, size), embedding)])

    return embed


def _evaluated(embedded: recognition.EmbeddedFace) -> EmbeddedFace:
    x1, y1, x2, y2 = (float(v) for v in embedded.face.box)
    return EmbeddedFace((x1, y1, x2, y2), embedded.embedding, embedded.feature_norm)


def _prepare(args: argparse.Namespace) -> Engine:
    engine = load_engine(settings_of(args))
    prepare_folder(args.out)
    return engine


def model_facts(engine: Engine) -> dict[str, Any]:
    """What was measured: the bundle, its contract and detector, and what it ran on."""
    card = engine.card
    return {
        "bundle": card.name,
        "version": card.version,
        "embedding_contract": card.embedding_contract,
        "detector": card.detector.source.sha256,
        "fusion": card.contract.fusion,
        "provider": {"detector": engine.providers[0], "embedder": engine.providers[1]},
    }


def _report(args: argparse.Namespace, engine: Engine, result: VerificationResult) -> int:
    components = engine.card.contract.dimension if args.pca == 0 else args.pca
    return _print(args, write_report(result, args.out, model_facts(engine), components), summary)


def _print(args: argparse.Namespace, report: dict[str, Any], summarise: Callable[[dict[str, Any]], str]) -> int:
    print(json.dumps(report) if args.json else f"{summarise(report)}\nreport in {args.out}")
    return 0
