"""Search in one gallery: latency of the top 10, memory a face, and both against what the machine could do.

    python -m tests.benchmarks.search_speed [--faces 10000 100000 1000000] [--dimensions 128 512] [--rounds 15]
        [--photos 1]

So many photos a person, clustered unit vectors; persons are what is scanned. Concurrent probes are threads that ask the
batcher at the same moment; the figure is the time until the last one has its answer. In each round everything is timed
one after the other, so that a noisy machine disturbs all alike; ratios are the medians of each round's own. The floor
is the time to read once what one probe's scan reads: a byte a component, four in the block that is not full.
"""

import argparse
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faiss
import numpy as np

from service.gallery.flat_index import BLOCK_ROWS
from service.gallery.person_template import person_templates
from service.gallery.probes import Probe, shared_scans
from service.gallery.records import Templates
from service.gallery.segment import Segment
from service.runtime.batcher import Batcher
from tests.benchmarks.measured import clock, resident

TOP_K = 10
CONCURRENT = (8, 64)
READ_BYTES = 1 << 28
WARM_UP = 2


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--faces", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    arguments.add_argument("--dimensions", type=int, nargs="+", default=[128, 512])
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--photos", type=int, default=1)
    args = arguments.parse_args()
    print(f"Top {TOP_K}, medians of {args.rounds} rounds. Flat is FAISS's IndexFlatIP, one probe at a time.\n")
    heads = ["faces", "d", "1/floor", "1/Flat", *(f"{n} rate/Flat" for n in CONCURRENT), f"recall@{TOP_K}"]
    heads += ["1 ms", *(f"{n} ms" for n in CONCURRENT), "Flat ms", "floor ms", "GB/s", "B/face", "add s", "remove ms"]
    print("".join(f"{head:>12}" for head in heads), flush=True)
    for dimension in args.dimensions:
        for faces in args.faces:
            figures = measure(faces, dimension, args.rounds, args.photos)
            print("".join(f"{written(figures[head]):>12}" for head in heads), flush=True)


def measure(faces: int, dimension: int, rounds: int, photos: int) -> dict[str, float]:
    """One line of the table, by its heads."""
    rng = np.random.default_rng(faces + dimension)
    vectors, persons = clustered(rng, faces, dimension, photos)
    probes = unit(vectors[rng.integers(0, faces, max(CONCURRENT))], rng, 0.3)
    before = resident()
    segment = Segment(dimension)
    add, _ = clock(lambda: segment.add(Templates(np.arange(faces), persons, vectors)))
    memory = (resident() - before) / faces
    templates = vectors
    if photos > 1:
        starts = np.arange(0, faces, photos)
        templates = person_templates(vectors, starts, np.diff(np.append(starts, faces)))
    flat = faiss.IndexFlatIP(dimension)
    flat.add(templates)
    searches, memory_to_read = shared_scans(segment), np.ones(READ_BYTES // 4, np.float32)
    bytes_read = dimension * (len(templates) + 3 * (len(templates) % BLOCK_ROWS))

    def one_round(number: int) -> dict[str, float]:
        probe = probes[number % len(probes)]
        seconds = {"1": clock(lambda: searches.ask(Probe(probe, TOP_K)))[0]}
        seconds["Flat"] = clock(lambda: flat.search(probe[None], TOP_K))[0]
        for count in CONCURRENT:
            seconds[str(count)] = together(searches, probes[:count])
        seconds["floor"] = read_seconds(memory_to_read) * bytes_read / READ_BYTES
        return seconds

    timed = [one_round(number) for number in range(rounds + WARM_UP)][WARM_UP:]
    figures = {f"{name} ms": 1000 * median(timed, lambda r, name=name: r[name]) for name in timed[0]}
    figures |= {f"1/{name}": median(timed, lambda r, name=name: r["1"] / r[name]) for name in ("floor", "Flat")}
    for count in CONCURRENT:
        figures[f"{count} rate/Flat"] = median(timed, lambda r, n=count: n * r["Flat"] / r[str(n)])
    removal, _ = clock(lambda: segment.remove(np.array([faces // 2])))
    figures |= {"faces": faces, "d": dimension, "B/face": memory, "add s": add, "remove ms": 1000 * removal}
    figures["GB/s"] = bytes_read / 1e6 / figures["floor ms"]
    segment.add(Templates(np.array([faces // 2]), persons[[faces // 2]], vectors[[faces // 2]]))
    return figures | {f"recall@{TOP_K}": recall(segment, templates, probes[:16])}


def written(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 1000 else f"{figure:.3g}"


def median(timed: list[dict[str, float]], value: Callable[..., float]) -> float:
    return float(np.median([value(seconds) for seconds in timed]))


def clustered(rng: np.random.Generator, faces: int, dimension: int, photos: int) -> tuple[Any, Any]:
    """float32 unit vectors, so many near each other for each person, and the persons, numbers from 0."""
    persons = np.arange(faces, dtype=np.int64) // photos
    centres = rng.standard_normal((int(persons[-1]) + 1, dimension), np.float32)
    return unit(centres[persons], rng, 0.7), persons


def unit(vectors: Any, rng: np.random.Generator, spread: float) -> Any:
    """The vectors, moved at random by ``spread`` of their length and brought to unit length."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True) / vectors.shape[1] ** 0.5
    moved = vectors + spread * length * rng.standard_normal(vectors.shape, np.float32)
    return (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)


def together(searches: Batcher[Probe, Any], probes: Any) -> float:
    """Seconds until all probes, asked at one moment by a thread each, are answered."""
    ready = threading.Barrier(len(probes) + 1)

    def ask(probe: Any) -> None:
        ready.wait()
        searches.ask(Probe(probe, TOP_K))

    threads = [threading.Thread(target=ask, args=(probe,)) for probe in probes]
    for thread in threads:
        thread.start()
    ready.wait()
    return clock(lambda: [thread.join() for thread in threads])[0]


def read_seconds(numbers: Any) -> float:
    """To read an array larger than the caches once, with two threads."""
    with ThreadPoolExecutor(2) as pool:
        return clock(lambda: list(pool.map(np.max, np.array_split(numbers, 2))))[0]


def recall(segment: Segment, templates: Any, probes: Any) -> float:
    """Share of the true best persons that are found."""
    found = 0
    for probe, hits in zip(probes, segment.search(probes, TOP_K), strict=True):
        exact = np.concatenate([part.astype(np.float64) @ probe for part in np.array_split(templates, 32)])
        found += len(set(np.argsort(-exact)[:TOP_K].tolist()) & {hit.person for hit in hits})
    return found / (TOP_K * len(probes))


if __name__ == "__main__":
    main()
