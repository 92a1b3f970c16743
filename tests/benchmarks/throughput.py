"""The service over HTTP, saturated and not, against its bare networks on the same cores in the same run.

    python -m tests.benchmarks.throughput [--data-dir data] [--bundle open] [--seconds 8] [--json]

Verifications of portraits cut from the group photo of insightface, and searches in a gallery of random templates.
Before and after each closed loop the bare networks run on the very inputs that the photos need, a thread a core, and
what they take is compared with what the service takes; the load generator uses the same cores. Then open loops at
80 % of the saturated rate, at even distances and as a Poisson process.
"""

import argparse
import asyncio
import base64
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import requests
from numpy.typing import NDArray

from service.engine import Engine, load_engine
from service.load.connection import Target, target
from service.load.curve import HEADER, line, point
from service.load.generator import closed_loop, open_loop
from service.runtime.networks import available_cores
from service.settings import read_settings
from tests.benchmarks.processes import likeness
from tests.benchmarks.verify_stages import Calls, portraits, record, replay

CLIENTS = (1, 4, 16, 64)
GALLERY_FACES = 10_000


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data-dir", type=Path, default=Path("data"))
    arguments.add_argument("--bundle", default="open")
    arguments.add_argument("--seconds", type=float, default=8.0)
    arguments.add_argument("--json", action="store_true")
    args = arguments.parse_args()
    engine = load_engine(read_settings(data_dir=args.data_dir, bundle=args.bundle))
    photos = portraits(engine, 6)
    recorded = [record(engine, photo) for photo in photos]
    with likeness(args.data_dir, args.bundle) as served:
        fill_gallery(served.url, engine)
        report = {
            "verify (two photos)": loops(verify_target(served.url, photos), recorded, 2, args.seconds),
            "search (a photo)": loops(photo_search(served.url, photos), recorded, 1, args.seconds),
            "search (an embedding)": loops(embedding_search(served.url, engine), [], 1, args.seconds),
        }
    if args.json:
        print(json.dumps(report))
        return
    print(f"bundle {args.bundle}, {available_cores()} cores, {args.seconds:g} s a loop")
    for name, found in report.items():
        print(f"\n{name}\n{HEADER}\n" + "\n".join(found["lines"]))
        print("\n".join(f"{label:<52}{value:7.2f}" for label, value in found["ratios"].items()))


def verify_target(url: str, photos: list[bytes], path: str = "/v1/verify") -> Target:
    """Pairs of neighbours, in turn."""
    pairs = zip(photos, [*photos[1:], photos[0]], strict=True)
    fields = [("threshold", "0.3"), ("faces", "largest")]
    return target(url, path, [[("image_a", a), ("image_b", b), *fields] for a, b in pairs], {})


def photo_search(url: str, photos: list[bytes]) -> Target:
    """Searches with the largest face of a photo."""
    fields = [("threshold", "0.5"), ("faces", "largest")]
    return target(url, "/v1/galleries/bench/search", [[("image", photo), *fields] for photo in photos], {})


def embedding_search(url: str, engine: Engine) -> Target:
    """Searches with a template that is enrolled."""
    bodies: list[dict[str, object]] = [
        {
            "embedding": template.tolist(),
            "embedding_contract": engine.card.embedding_contract,
            "threshold": 0.5,
        }
        for template in templates_of(engine)[:64]
    ]
    return target(url, "/v1/galleries/bench/search", bodies, {})


def templates_of(engine: Engine) -> NDArray[np.float32]:
    """Random, of unit length."""
    shape = (GALLERY_FACES, engine.card.contract.dimension)
    templates = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return templates / np.linalg.norm(templates, axis=1, keepdims=True)


def fill_gallery(url: str, engine: Engine) -> None:
    """A gallery of ``GALLERY_FACES`` persons with a random template each."""
    templates, contract = templates_of(engine), engine.card.embedding_contract
    gallery = f"{url}/v1/galleries/bench"
    requests.put(gallery, timeout=60).raise_for_status()
    for start in range(0, len(templates), 2000):
        persons = [
            {"person_id": str(i), "faces": [{"face_id": f"f{i}", "embedding": base64.b64encode(templates[i]).decode()}]}
            for i in range(start, start + 2000)
        ]
        body = {"embedding_contract": contract, "persons": persons}
        requests.post(f"{gallery}/import", json=body, timeout=300).raise_for_status()


def loops(to: Target, recorded: list[Calls], photos: int, seconds: float) -> dict[str, Any]:
    """Closed and open loops; ratios to the bare networks' rate for so many ``photos``, if their calls are given."""
    points, bare = [], []
    for clients in CLIENTS:
        before = bare_rate(recorded, photos, seconds / 4)
        points.append(point(asyncio.run(closed_loop(to, clients, seconds, retry_s=0.05)), clients))
        bare.append((before + bare_rate(recorded, photos, seconds / 4)) / 2)
    best = int(np.argmax([p.throughput for p in points]))
    saturated, unloaded = points[best].throughput, points[0].p50_ms
    assert unloaded is not None
    ratios = {}
    if recorded:
        for p, rate in zip(points, bare, strict=True):
            ratios[f"rate at {p.clients} clients / rate of the bare networks"] = p.throughput / rate
    for arrivals in ("even", "poisson"):
        found = point(asyncio.run(open_loop(to, 0.8 * saturated, 2 * seconds, arrivals)), None)  # type: ignore[arg-type]
        points.append(found)
        ratios[f"p99 at 80 % load, {arrivals} arrivals / unloaded p50"] = (found.p99_ms or np.nan) / unloaded
    return {"lines": [line(p, saturated) for p in points], "ratios": ratios, "points": [p.__dict__ for p in points]}


def bare_rate(recorded: list[Calls], photos: int, seconds: float) -> float:
    """Requests of so many photos a second that the bare networks would allow, a thread a core."""
    if not recorded:
        return np.nan
    done, start = [0] * available_cores(), time.perf_counter()

    def work(number: int) -> None:
        photo = number
        while time.perf_counter() - start < seconds:
            replay(recorded[photo % len(recorded)])
            photo += 1
            done[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(done))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / photos / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
