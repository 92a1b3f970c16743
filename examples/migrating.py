"""What the migrations share: photos of persons into a gallery, with a line for each that was rejected.

Only photos are taken over. Templates of another service were made by other networks and can be compared with nothing
here, and its thresholds mean nothing here either: see docs/thresholds.md. Run again, a migration goes on where it was
interrupted.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from likeness import Client, PersonFolder, PhotoOutcome


def arguments(what: str | None) -> argparse.ArgumentParser:
    """Those that all migrations have."""
    parser = argparse.ArgumentParser(description=(what or "").partition("\n")[0])
    parser.add_argument("gallery", metavar="GALLERY", help="made if it is not there")
    parser.add_argument(
        "--faces",
        choices=["single", "largest"],
        default="single",
        help="a photo of several people is rejected (single, the default), or stands for the largest of them",
    )
    parser.add_argument(
        "--quality", choices=["enrol", "probe", "off"], default="enrol", help="limits on photos (default: enrol)"
    )
    parser.add_argument("--workers", type=int, default=4, help="photos sent at once (default: 4)")
    return parser


def keep(path: Path, content: bytes) -> None:
    """Write a downloaded photo, whole or not at all: what is there is not downloaded again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


def enrol(args: argparse.Namespace, persons: Sequence[PersonFolder]) -> int:
    """Enrol, and print what became of the photos. 1 where not one of them is in the gallery."""

    def told(photo: PhotoOutcome) -> None:
        if photo.what == "rejected":
            print(f"{photo.path}: {photo.code}: {photo.message}", file=sys.stderr)

    with Client() as client:
        outcomes = client.enrol_folder(
            args.gallery,
            persons,
            faces=args.faces,
            quality=args.quality,
            workers=args.workers,
            on_outcome=told,
        )
    counts = Counter(outcome.what for outcome in outcomes)
    print(
        f"{args.gallery}: {len(persons)} persons, {counts['enrolled']} photos enrolled, "
        f"{counts['already_there']} already there, {counts['rejected']} rejected"
    )
    return 0 if counts["enrolled"] or counts["already_there"] else 1
