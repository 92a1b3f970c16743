"""``likeness adopt``: a bundle of anyone's embedder."""

import argparse
import json
from pathlib import Path
from typing import Any

from service.cli.lfw_options import accuracy_line, add_lfw, lfw_of
from service.cli.options import settings_of
from service.errors import InvalidRequest
from service.runtime.card import Licence, Preprocessing


def add_command(commands: Any, common: argparse.ArgumentParser) -> None:
    """Register the sub-command."""
    command = commands.add_parser("adopt", parents=[common], help="make a bundle of an embedder in an ONNX file")
    command.add_argument("model", type=Path, metavar="MODEL.onnx", help="an embedder of 112×112 crops")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="the bundle's folder")
    command.add_argument("--name", help="the bundle's name (default: that of the folder)")
    command.add_argument("--preset", help="how pixels are given to it: insightface, facex-zoo or raw")
    command.add_argument("--mean", type=float, help="without a preset: (pixel - MEAN) / SCALE, pixels 0 to 255")
    command.add_argument("--scale", type=float)
    command.add_argument("--channels", choices=["rgb", "bgr"], help="without a preset")
    command.add_argument("--layout", choices=["nchw", "nhwc"], default="nchw", help="of its input (default: nchw)")
    command.add_argument(
        "--fusion", choices=["sum", "concat", "none"], default="sum", help="of a crop and its mirror image"
    )
    command.add_argument(
        "--detector", default="open", metavar="BUNDLE", help="of which catalogue bundle (default: open)"
    )
    command.add_argument(
        "--accept-license", action="append", default=[], metavar="NAME", help="accept the licence of that detector"
    )
    command.add_argument("--pca", type=Path, metavar="FILE", help=".npy of embeddings (n, d) to fit a PCA to")
    command.add_argument("--pca-dimension", type=int, metavar="K", help="components that stay (default: all)")
    command.add_argument(
        "--calibration", type=Path, metavar="FILE", help="calibration.json that likeness evaluate wrote for this bundle"
    )
    add_lfw(command)
    command.add_argument(
        "--licence", default="LicenseRef-unstated", metavar="SPDX", help="of the weights (default: LicenseRef-unstated)"
    )
    command.add_argument("--licence-url", default="", metavar="URL")
    command.add_argument("--commercial-use", action="store_true", help="the weights' licence permits it")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Adopt, and say what came of it."""
    # onnx and insightface, which the service never loads.
    from export.foreign import AdoptOptions, adopt_file
    from export.projection import Pca

    out = args.out.resolve()
    options = AdoptOptions(
        preprocessing=_preprocessing(args),
        licence=Licence(spdx=args.licence, url=args.licence_url, commercial_use=args.commercial_use),
        layout=args.layout,
        fusion=args.fusion,
        detector=args.detector,
        accepted=args.accept_license,
        pca=Pca(args.pca, args.pca_dimension),
        calibration=args.calibration,
        lfw=lfw_of(args),
    )
    card = adopt_file(args.model, out, args.name or out.name, settings_of(args).data_dir / "downloads", options)
    if args.json:
        print(json.dumps({"path": str(out), "card": card.model_dump(mode="json")}))
        return 0
    commercial = "commercial use permitted" if card.licence.commercial_use else "NOT FOR COMMERCIAL USE"
    print(f"{card.name}: {card.description}")
    print(f"  made and checked: {out}")
    print(f"  licence of the weights: {card.licence.spdx} ({commercial})")
    print(
        f"  {card.contract.dimension} dimensions; parity with the file: cosine at least "
        f"{card.parity.min_cosine:.7f} on {card.parity.crops} faces"
    )
    if card.parity.accuracy is not None:
        print(accuracy_line(card.parity.accuracy))
    if card.calibration is None:
        print("  no calibration: it verifies with --threshold; error rates need a measurement (--calibration)")
    return 0


def _preprocessing(args: argparse.Namespace) -> Preprocessing:
    from export.foreign import preset

    given = (args.mean, args.scale, args.channels)
    if args.preset is not None:
        if given != (None, None, None):
            raise InvalidRequest(f"--preset {args.preset} says it all; leave --mean, --scale and --channels out.")
        return preset(args.preset)
    if None in given:
        raise InvalidRequest(
            "How pixels are given to the network is not guessed: --preset, or --mean, --scale and --channels."
        )
    if not args.scale > 0:
        raise InvalidRequest(f"--scale is {args.scale:g}; pixels are divided by it, so it must be above 0.")
    return Preprocessing(channels="RGB" if args.channels == "rgb" else "BGR", mean=args.mean, scale=args.scale)
