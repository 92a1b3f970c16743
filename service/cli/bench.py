"""``likeness bench``: drive a running service and print how much it takes, and how long callers wait."""

import argparse
import json
from pathlib import Path
from typing import Any

from likeness.client import DEFAULT_URL, address_of, key_of
from likeness.operations import path_of
from service.errors import InvalidRequest
from service.load.connection import Target, target
from service.load.curve import HEADER, Point, draw, line, measure

# Photos that each call takes.
_PHOTOS = {"detect": 1, "embed": 1, "verify": 2, "search": 1}


def add_command(commands: Any, remote: argparse.ArgumentParser) -> None:
    """Register the sub-command."""
    command = commands.add_parser("bench", parents=[remote], help="measure a running service: a saturation curve")
    command.add_argument("call", choices=sorted(_PHOTOS), help="what to ask")
    command.add_argument("photos", nargs="+", type=Path, metavar="PHOTO", help="two for verify, else one")
    command.add_argument("--gallery", help="where to search")
    command.add_argument("--field", action="append", default=[], metavar="NAME=VALUE", help="sent with the photos")
    command.add_argument(
        "--clients", type=_numbers(int), default=[1, 4, 16, 64], help="of the closed loops (1,4,16,64)"
    )
    command.add_argument(
        "--loads",
        type=_numbers(float),
        default=[0.2, 0.5, 0.8, 0.95, 1.2, 2.0],
        help="of the open loops, as shares of the saturated rate (0.2,0.5,0.8,0.95,1.2,2)",
    )
    command.add_argument("--arrivals", choices=["even", "poisson"], default="even", help="in the open loops (even)")
    command.add_argument("--seconds", type=float, default=10.0, help="for each loop (10)")
    command.add_argument("--out", type=Path, help="folder for bench.json and bench.png")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, print, write."""
    to = _target(args)
    saturated = None

    def told(point: Point) -> None:
        nonlocal saturated
        if point.clients is not None:
            saturated = max(saturated or 0.0, point.throughput)
        if not args.json:
            print(line(point, saturated), flush=True)

    if not args.json:
        print(
            f"{args.call} at {args.url or DEFAULT_URL}; the generator runs on the cores it shares with it\n\n{HEADER}"
        )
    curve = measure(to, args.clients, args.loads, args.seconds, args.arrivals, told)
    report = {"call": args.call, "seconds": args.seconds, **curve.as_json()}
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "bench.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        draw(curve, f"likeness bench {args.call}, {args.arrivals} arrivals", args.out / "bench.png")
    if args.json:
        print(json.dumps(report))
        return 0
    print(f"\nsaturated at {curve.saturated:.1f} requests a second; unloaded p50 {curve.unloaded_p50_ms:.1f} ms")
    for point in curve.open:
        if point.p99_ms is not None:
            ratio = point.p99_ms / curve.unloaded_p50_ms
            print(f"p99 at {100 * point.offered / curve.saturated:.0f} % load: {ratio:.1f} × the unloaded p50")
    return 0


def _target(args: argparse.Namespace) -> Target:
    wanted = _PHOTOS[args.call]
    if len(args.photos) != wanted:
        raise InvalidRequest(f"{args.call} takes {wanted} photos, not {len(args.photos)}.")
    if (args.gallery is None) == (args.call == "search"):
        raise InvalidRequest("--gallery goes with search, and search with --gallery.")
    try:
        contents = [photo.read_bytes() for photo in args.photos]
    except OSError as error:
        raise InvalidRequest(f"{error.filename} cannot be read: {error.strerror}.") from error
    names = ("image_a", "image_b") if args.call == "verify" else ("image",)
    path = path_of("galleries", args.gallery, "search") if args.gallery else path_of(args.call)
    key = key_of(args.key)
    return target(
        address_of(args.url),
        path,
        [[*zip(names, contents, strict=True), *(_field(given) for given in args.field)]],
        {"Authorization": f"Bearer {key}"} if key else {},
    )


def _field(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not equals:
        raise InvalidRequest(f"--field {given!r} is not NAME=VALUE.")
    return name, value


def _numbers(kind: type[int] | type[float]) -> Any:
    def parse(text: str) -> list[float]:
        numbers = [kind(part) for part in text.split(",")]
        if not all(0 < number < 100_000 for number in numbers):
            raise ValueError(text)
        return numbers

    parse.__name__ = f"{kind.__name__} list"
    return parse
