"""``likeness enrol``: a folder of photos into a gallery of a running service; ``likeness.enrolment`` does it."""

import argparse
import csv
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from likeness.enrolment import MOST_WORKERS, PhotoOutcome, Plan, Told
from likeness.enrolment import run as enrol
from likeness.folders import ENDINGS
from service.cli.client import client_of, prepare_gallery
from service.cli.photo_folder import persons_of
from service.errors import InvalidRequest
from service.progress import bar


def add_command(commands: Any, remote: argparse.ArgumentParser) -> None:
    """Register the sub-command."""
    command = commands.add_parser(
        "enrol",
        parents=[remote],
        help="enrol a folder of photos, one sub-folder a person",
        description="Started again, it goes on where it was interrupted; photos that were rejected are tried again.",
    )
    command.add_argument("gallery", metavar="GALLERY", help="made if it is not there")
    command.add_argument("folder", type=Path, metavar="DIR", help=f"DIR/PERSON/PHOTO ({' '.join(ENDINGS)})")
    command.add_argument("--faces", choices=["single", "largest"], default="single", help="default: single")
    command.add_argument(
        "--quality", choices=["enrol", "probe", "off"], default="enrol", help="limits on photos (default: enrol)"
    )
    command.add_argument("--workers", type=int, default=4, help="photos sent at once (default: 4)")
    command.add_argument(
        "--rejected", type=Path, metavar="FILE", help="CSV of photos that were rejected (default: GALLERY-rejected.csv)"
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Enrol, and say what became of the photos. 3 if not one of them is in the gallery."""
    if not 1 <= args.workers <= MOST_WORKERS:
        raise InvalidRequest(f"--workers must be 1 to {MOST_WORKERS}, not {args.workers}.")
    persons = persons_of(args.folder)
    rejected = args.rejected or Path(f"{args.gallery}-rejected.csv")
    started = time.monotonic()
    plan = Plan(args.gallery, persons, args.faces, args.quality, args.workers)
    counts: Counter[str] = Counter()
    with client_of(args, args.workers) as client:
        prepare_gallery(client, args.gallery)
        with _tally(counts, sum(len(person.photos) for person in persons), rejected) as told_of:
            enrol(client.remote, plan, told_of)
    seconds = time.monotonic() - started
    told = {
        "gallery": args.gallery,
        "persons": len(persons),
        **{what: counts[what] for what in ("enrolled", "already_there", "rejected")},
        "seconds": round(seconds, 3),
        "photos_per_second": round(counts["enrolled"] / seconds, 2),
        "rejected_file": str(rejected),
    }
    if args.json:
        print(json.dumps(told))
    else:
        where = f" (see {rejected})" if counts["rejected"] else ""
        print(
            f"{args.gallery}: {len(persons)} persons, {counts['enrolled']} photos enrolled, "
            f"{counts['already_there']} already there, {counts['rejected']} rejected{where}; "
            f"{seconds:.1f} s, {told['photos_per_second']} photos/s"
        )
    return 0 if counts["enrolled"] or counts["already_there"] else 3


@contextmanager
def _tally(counts: Counter[str], total: int, rejected: Path) -> Iterator[Told]:
    """Counts each outcome; those that were rejected are written down as they come."""
    try:
        # Names of files are bytes; those that are no text are written as they are.
        table = rejected.open("w", encoding="utf-8", errors="surrogateescape", newline="")
    except OSError as error:
        raise InvalidRequest(f"{rejected} cannot be written: {error.strerror}") from error
    with table, bar(total, "enrol", "photo") as progress:
        rows = csv.writer(table)
        rows.writerow(["person_id", "file", "code", "message"])

        def told_of(outcome: PhotoOutcome) -> None:
            counts[outcome.what] += 1
            if outcome.what == "rejected":
                rows.writerow([outcome.person, outcome.path, outcome.code, outcome.message])
                table.flush()
            progress.update(1)

        yield told_of
