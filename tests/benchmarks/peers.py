"""The service beside what users would write themselves: the same two networks, photos and cores, in one run.

    python -m tests.benchmarks.peers [--data-dir data] [--seconds 8] [--rounds 3] [--photos DIR] [--json]

Verifications, two photos each, by

- the ``insightface`` package's ``FaceAnalysis`` with its defaults in a loop, by one caller;
- the same behind a minimal FastAPI route that runs in a thread pool (``peer_server.py``);
- this service,

each with bundle buffalo_s, whose published files the package is given. Servers run one at a time; rounds take turns,
and the medians over the rounds count. The load generator shares the cores.
"""

import argparse
import asyncio
import io
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.engine import load_engine
from service.load.connection import Target
from service.load.curve import Point, point
from service.load.generator import closed_loop
from service.runtime.networks import available_cores
from service.settings import read_settings
from tests.benchmarks.peer_server import MODEL, embedding, face_analysis
from tests.benchmarks.processes import Server, likeness, server
from tests.benchmarks.throughput import verify_target
from tests.benchmarks.verify_stages import portraits

BUNDLE = "buffalo_s"
CLIENTS = (1, 16)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data-dir", type=Path, default=Path("data"))
    arguments.add_argument("--seconds", type=float, default=8.0)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--photos", type=Path, help="folder of photos of one face each, else portraits cut here")
    arguments.add_argument("--json", action="store_true")
    args = arguments.parse_args()
    engine = load_engine(read_settings(data_dir=args.data_dir, bundle=BUNDLE))
    if args.photos:
        chosen = sorted(args.photos.rglob("*.jpg"))
        photos = [photo.read_bytes() for photo in chosen[:: max(1, len(chosen) // 40)]]
    else:
        photos = portraits(engine, 6)
    card, found = engine.card, []
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models" / MODEL
        models.mkdir(parents=True)
        for source in (card.detector.source, card.embedder.source):
            (models / source.file).symlink_to((args.data_dir / "downloads" / source.sha256 / source.file).resolve())
        for _ in range(args.rounds):
            found.append(one_round(args.data_dir, Path(folder), photos, args.seconds))
    report(found, len(photos), args.json)


@dataclass(frozen=True)
class Run:
    """One loop, and the processor's seconds that each verification took, in all threads."""

    point: Point
    cpu_s: float


def one_round(data_dir: Path, root: Path, photos: list[bytes], seconds: float) -> dict[str, list[Run]]:
    found = {"loop": [in_a_loop(root, photos, seconds)]}
    peer = ["-m", "tests.benchmarks.peer_server", str(root)]
    with server(peer, "/ready") as other:
        found["route"] = driven(other, verify_target(other.url, photos, "/verify"), seconds)
    with likeness(data_dir, BUNDLE) as served:
        found["service"] = driven(served, verify_target(served.url, photos), seconds)
    return found


def driven(of: Server, to: Target, seconds: float) -> list[Run]:
    asyncio.run(closed_loop(to, 2, 1.0))  # warm
    runs = []
    for clients in CLIENTS:
        before = of.cpu_seconds()
        outcome = asyncio.run(closed_loop(to, clients, seconds))
        runs.append(Run(point(outcome, clients), (of.cpu_seconds() - before) / max(1, len(outcome.latencies))))
    return runs


def in_a_loop(root: Path, photos: list[bytes], seconds: float) -> Run:
    """No HTTP, no threads of its own: one verification after the other."""
    with quiet():
        analysis = face_analysis(root)
    taken, start, cpu = [], time.perf_counter(), time.process_time()
    while (begun := time.perf_counter()) - start < seconds:
        a, b = photos[len(taken) % len(photos)], photos[(len(taken) + 1) % len(photos)]
        float(embedding(analysis, a) @ embedding(analysis, b))
        taken.append(time.perf_counter() - begun)
    p50, p95, p99 = (1000 * float(p) for p in np.percentile(taken, (50, 95, 99)))
    rate = len(taken) / sum(taken)
    return Run(Point(1, rate, rate, p50, p95, p99, 0.0, None, 0), (time.process_time() - cpu) / len(taken))


def report(found: list[dict[str, list[Run]]], photos: int, as_json: bool) -> None:
    def median(who: str, place: int, what: str) -> float:
        return float(np.median([getattr(one[who][place].point, what) or np.nan for one in found]))

    rate = {(who, c): median(who, c, "throughput") for who in ("route", "service") for c in range(len(CLIENTS))}
    loop = median("loop", 0, "throughput")
    cpu = {who: float(np.median([one[who][-1].cpu_s for one in found])) for who in ("loop", "route", "service")}
    ratios = {
        "rate at 16 clients, service / route": rate["service", 1] / rate["route", 1],
        "rate at 16 clients, service / loop": rate["service", 1] / loop,
        "p99 at 16 clients, service / route": median("service", 1, "p99_ms") / median("route", 1, "p99_ms"),
        "p50 at 1 client, service / route": median("service", 0, "p50_ms") / median("route", 0, "p50_ms"),
        "p50 at 1 client, service / loop": median("service", 0, "p50_ms") / median("loop", 0, "p50_ms"),
        "processor time a verification, route / service": cpu["route"] / cpu["service"],
        "processor time a verification, loop / service": cpu["loop"] / cpu["service"],
    }
    failed = sum(run.point.failed for one in found for runs in one.values() for run in runs)
    if as_json:
        print(json.dumps({"ratios": ratios, "failed": failed, "rounds": [_plain(one) for one in found]}))
        return
    print(f"verifications of {photos} photos, {BUNDLE}, {available_cores()} cores, medians of {len(found)} rounds\n")
    for label, value in ratios.items():
        print(f"{label:<50}{value:7.2f}")
    print(f"\n{'':<22}{'clients':>8}{'done/s':>9}{'p50 ms':>9}{'p99 ms':>9}")
    for who, name in (("loop", "FaceAnalysis, loop"), ("route", "FaceAnalysis, route"), ("service", "this service")):
        for place, clients in enumerate(CLIENTS[: len(found[0][who])]):
            values = (median(who, place, what) for what in ("throughput", "p50_ms", "p99_ms"))
            print(f"{name:<22}{clients:>8}" + "".join(f"{value:>9.1f}" for value in values))
    print(f"requests that failed: {failed}")


def _plain(one: dict[str, list[Run]]) -> dict[str, list[dict[str, object]]]:
    return {who: [{**run.point.__dict__, "cpu_s": run.cpu_s} for run in runs] for who, runs in one.items()}


@contextmanager
def quiet() -> Iterator[None]:
    """The package prints as it loads."""

    with redirect_stdout(io.StringIO()):
        yield


if __name__ == "__main__":
    main()
