"""``likeness evaluate``: published protocols through the recognizer that serves."""

import argparse
import json
from pathlib import Path
from typing import Any

from service.cli.options import settings_of
from service.engine import Engine, load_engine
from service.evaluation.lfw import EmbeddedFace, EmbeddedPhoto, EmbedPhoto, evaluate_lfw
from service.evaluation.report import prepare_folder, summary, write_report
from service.recognition import types as recognition
from service.runtime.networks import available_cores


def add_command(commands: Any, local: argparse.ArgumentParser) -> None:
    """Register the sub-command and its protocols."""
    command = commands.add_parser("evaluate", help="measure accuracy on a published protocol")
    protocols = command.add_subparsers(required=True, metavar="PROTOCOL")
    lfw = protocols.add_parser("lfw", parents=[local], help="Labeled Faces in the Wild, verification, ten folds")
    lfw.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of Name/Name_0001.jpg")
    lfw.add_argument("--pairs", type=Path, required=True, metavar="FILE", help="pairs.txt")
    lfw.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the report goes")
    lfw.add_argument("--workers", type=int, default=available_cores(), help="photos at once (default: cores)")
    lfw.set_defaults(run=run_lfw)


def run_lfw(args: argparse.Namespace) -> int:
    """Measure, write the report, print its summary."""
    settings = settings_of(args)
    engine = load_engine(settings)
    prepare_folder(args.out)
    result = evaluate_lfw(photo_embedder(engine), args.images, args.pairs, args.workers)
    card = engine.card
    model = {
        "bundle": card.name,
        "version": card.version,
        "embedding_contract": card.embedding_contract,
        "detector": card.detector.source.sha256,
        "fusion": card.contract.fusion,
        "provider": {"detector": engine.providers[0], "embedder": engine.providers[1]},
    }
    report = write_report(result, args.out, model)
    print(json.dumps(report) if args.json else f"{summary(report)}\nreport in    {args.out}")
    return 0


def photo_embedder(engine: Engine) -> EmbedPhoto:
    """The engine as the evaluation calls it: every face of an encoded photo."""

    def embed(data: bytes, /) -> EmbeddedPhoto:
        image, faces = engine.embed(data, "all")
        return EmbeddedPhoto(image.width, image.height, [_evaluated(embedded) for _, embedded in faces])

    return embed


def _evaluated(embedded: recognition.EmbeddedFace) -> EmbeddedFace:
    x1, y1, x2, y2 = (float(v) for v in embedded.face.box)
    return EmbeddedFace((x1, y1, x2, y2), embedded.embedding)
