"""``likeness calibrate``: thresholds for error rates, measured on labelled photos."""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from service.cli.evaluate import model_facts, photo_embedder
from service.cli.options import settings_of
from service.cli.photo_folder import persons_of as folders_of
from service.engine import load_engine
from service.errors import InvalidRequest
from service.evaluation.cache import cached
from service.evaluation.calibration import calibrate
from service.evaluation.calibration_report import calibration_summary, write_calibration
from service.evaluation.folder import prepare_folder
from service.evaluation.lfw import read_pairs
from service.evaluation.operating_points import count_pairs
from service.evaluation.photos import embed_photos, persons_of
from service.evaluation.verification import named_in
from service.runtime.networks import available_cores


def add_command(commands: Any, local: argparse.ArgumentParser) -> None:
    """Register the sub-command."""
    command = commands.add_parser(
        "calibrate",
        parents=[local],
        help="measure which threshold has which error rates, on your own photos",
        description="All pairs of photos are compared, of one person and of two. The result goes into a bundle with "
        "`python -m export … --calibration OUT/calibration.json`.",
    )
    command.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of NAME/photo.jpg")
    command.add_argument("--pairs", type=Path, metavar="FILE", help="only photos named in this, as LFW's pairs.txt")
    command.add_argument(
        "--without", type=Path, metavar="FILE", help="photos or persons to leave out, a line each: NAME/photo.jpg, NAME"
    )
    command.add_argument("--name", help="of the data set (default: the folder's)")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="where calibration.json goes")
    command.add_argument("--cache", type=Path, metavar="FILE", help=".npz that keeps the embeddings for the next time")
    command.add_argument("--workers", type=int, default=available_cores(), help="photos at once (default: cores)")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, write, print."""
    without = left_out(args.without)
    names = [photo for photo in _named(args) if photo not in without and photo.split("/")[0] not in without]
    count_pairs(persons_of(names)[1])
    engine = load_engine(settings_of(args))
    prepare_folder(args.out)
    model = model_facts(engine)
    photos = cached(
        lambda: embed_photos(photo_embedder(engine), args.images, names, args.workers),
        names,
        f"{model['embedding_contract']} {model['detector']}",
        args.cache,
    )
    dataset = args.name or args.images.resolve().name
    if args.without:
        dataset += f", without {args.without.name}"
    calibration = calibrate(photos, persons_of(names)[1], (dataset, photos_digest(args.images, names)), model)
    if calibration is None:
        raise InvalidRequest(f"{len(names)} photos have too few pairs for two operating points; bring more persons.")
    write_calibration(calibration, args.out)
    print(calibration.model_dump_json() if args.json else calibration_summary(calibration))
    if not args.json:
        print(json.dumps({"undetected": photos.undetected}) if photos.undetected else f"written to {args.out}")
    return 0


def photos_digest(images: Path, names: list[str]) -> str:
    """sha256 over the names and contents of photos."""
    total = hashlib.sha256()
    for name in names:
        total.update(f"{hashlib.sha256((images / name).read_bytes()).hexdigest()}  {name}\n".encode())
    return total.hexdigest()


def _named(args: argparse.Namespace) -> list[str]:
    if args.pairs is not None:
        return named_in(read_pairs(args.pairs))
    return [photo.relative_to(args.images).as_posix() for folder in folders_of(args.images) for photo in folder.photos]


def left_out(path: Path | str | None) -> frozenset[str]:
    """The photos and persons that a file names, a line each; # begins a comment."""
    if path is None:
        return frozenset()
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be read: {error}") from error
    return frozenset(line.split("#")[0].strip() for line in lines) - {""}
