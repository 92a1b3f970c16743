"""``likeness pull``: obtain and adopt a catalogue bundle."""

import argparse
import json
from typing import Any

from service.cli.options import settings_of


def add_command(commands: Any, common: argparse.ArgumentParser) -> None:
    """Register the sub-command."""
    command = commands.add_parser("pull", parents=[common], help="obtain a bundle of networks")
    command.add_argument("bundle", nargs="?", help="name in the catalogue (default: open)")
    command.add_argument(
        "--accept-license",
        action="append",
        default=[],
        metavar="NAME",
        help="accept a licence that does not permit commercial use; without it the message says which, and its terms",
    )
    command.add_argument("--force", action="store_true", help="adopt again even if a sound bundle is there")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fetch, adopt, and say what it is and under which licence."""
    # Adopting needs onnx and insightface, which no other command and never the service loads.
    from export.pull import pull

    settings = settings_of(args)
    pulled = pull(settings.bundle, settings.data_dir, args.force, args.accept_license)
    card = pulled.card
    if args.json:
        print(json.dumps({"path": str(pulled.path), "fresh": pulled.fresh, "card": card.model_dump(mode="json")}))
        return 0
    commercial = "commercial use permitted" if card.licence.commercial_use else "NOT FOR COMMERCIAL USE"
    print(f"{card.name} {card.version}: {card.description}")
    print(f"  {'made and checked' if pulled.fresh else 'already there'}: {pulled.path}")
    print(f"  licence of the weights: {card.licence.spdx} ({commercial})")
    print(
        f"  parity with the published files: cosine at least {card.parity.min_cosine:.7f} "
        f"on {card.parity.crops} faces, detector within {card.parity.detector_max_px:.4f} px"
    )
    return 0
