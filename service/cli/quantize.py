"""``likeness quantize``: a bundle in another precision."""

import argparse
import json
from pathlib import Path
from typing import Any

from service.cli.lfw_options import accuracy_line, add_lfw, lfw_of
from service.cli.options import settings_of
from service.runtime.bundle import locate


def add_command(commands: Any, common: argparse.ArgumentParser) -> None:
    """Register the sub-command."""
    command = commands.add_parser(
        "quantize", parents=[common], help="make a bundle of a bundle in float16 or int8, if that is worth it here"
    )
    command.add_argument("bundle", metavar="BUNDLE", help="name or folder of a float32 bundle")
    command.add_argument("--precision", required=True, choices=["float16", "int8", "int8-weights"])
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="the bundle's folder; its name too")
    command.add_argument("--photos", type=Path, metavar="DIR", help="for int8: photos of faces to calibrate on")
    add_lfw(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make it, or say by which figures it is not worth it."""
    # onnx and insightface, which the service never loads.
    from export.quantize import QuantizeOptions, quantize

    options = QuantizeOptions(precision=args.precision, photos=args.photos, lfw=lfw_of(args))
    settings = settings_of(args)
    card, report = quantize(locate(args.bundle, settings.data_dir), args.out, options)
    if args.json:
        found = {"path": str(args.out.resolve()), "card": card.model_dump(mode="json"), "report": report.to_json()}
        print(json.dumps(found))
        return 0
    print(f"{card.name}: {card.description}")
    print(f"  made and checked: {args.out.resolve()}")
    print(f"  {report.speedup:.2f} × as fast as float32 on {report.provider}, {100 * report.size:.0f} % of its size")
    print(f"  cosine to float32 at least {card.parity.min_cosine:.6f} on {card.parity.crops} faces")
    if card.parity.accuracy is not None:
        print(accuracy_line(card.parity.accuracy))
    print("  another embedding contract: embeddings of float32 are not compared with it; embed and calibrate anew")
    return 0
