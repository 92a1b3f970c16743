"""``python -m export CHECKPOINT --detector NAME --out DIR``: from a checkpoint of ours to a bundle.

Exit codes: 0 done, 2 wrong use, 4 no bundle could be made.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import get_args

from export.checkpoint import DETECTORS, ExportOptions, export_checkpoint
from export.projection import Pca
from service.cli.lfw_options import accuracy_line, add_lfw, lfw_of
from service.errors import InvalidRequest, LikenessError
from service.runtime.card import Card, Fusion, Licence
from service.settings import read_settings


def main() -> int:
    """Export, and say what came of it."""
    args = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        options = ExportOptions(
            detector=args.detector,
            licence=Licence(spdx=args.licence, url=args.licence_url, commercial_use=args.commercial_use),
            fusion=args.fusion,
            pca=Pca(args.pca, args.pca_dimension),
            calibration=args.calibration,
            lfw=lfw_of(args),
        )
        downloads = read_settings(data_dir=args.data_dir).data_dir / "downloads"
        card = export_checkpoint(args.checkpoint, args.out, downloads, options)
    except (LikenessError, OSError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidRequest) else 4
    print(_summary(card, args.out))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export", description="Make a bundle of a checkpoint.")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="as python -m models.train writes it")
    parser.add_argument("--detector", choices=list(DETECTORS), required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the bundle's folder; its name too")
    parser.add_argument(
        "--fusion", choices=get_args(Fusion), default="sum", help="of a crop and its mirror image (default: sum)"
    )
    parser.add_argument("--pca", type=Path, metavar="FILE", help=".npy of embeddings (n, d) to fit a PCA to")
    parser.add_argument("--pca-dimension", type=int, metavar="K", help="components that stay (default: all)")
    parser.add_argument(
        "--calibration", type=Path, metavar="FILE", help="calibration.json that likeness evaluate wrote for this bundle"
    )
    add_lfw(parser)
    parser.add_argument(
        "--licence",
        default="LicenseRef-unstated",
        metavar="SPDX",
        help="of the weights, an SPDX expression (default: LicenseRef-unstated)",
    )
    parser.add_argument("--licence-url", default="", metavar="URL")
    parser.add_argument("--commercial-use", action="store_true", help="the weights' licence permits it")
    parser.add_argument("--data-dir", type=Path, help="where downloads are kept (default: data)")
    return parser


def _summary(card: Card, out: Path) -> str:
    parity = card.parity
    commercial = "commercial use permitted" if card.licence.commercial_use else "NOT FOR COMMERCIAL USE"
    lines = [
        f"{card.name}: {card.description}",
        f"  made and checked: {out}",
        f"  licence of the weights: {card.licence.spdx} ({commercial})",
        f"  parity with torch in float64: cosine at least {parity.min_cosine:.7f} on {parity.crops} faces, "
        f"detector within {parity.detector_max_px:.4f} px of the published one",
    ]
    if parity.accuracy is not None:
        lines.append(accuracy_line(parity.accuracy))
    if card.calibration is None:
        lines.append("  no calibration: it verifies with --threshold; error rates need a measurement (--calibration)")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
