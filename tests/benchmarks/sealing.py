"""What encryption at rest costs: of an import, of one enrolment, of a start, of a deletion.

    python -m tests.benchmarks.sealing --data-dir DIR [--faces 200000] [--dimensions 128 512]

A store is filled, opened anew, read into memory and deleted from, as the service does it, and a meter around what
seals, opens, makes and destroys keys counts its part. Shares of imports and starts are of processor time, which other
load does not touch; those of one enrolment and one deletion are of time on the clock, since they wait for the disk. One
face a person, which is the most that keys can cost.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from service.gallery import store_bulk, store_faces, store_keys
from service.gallery.gallery import Galleries
from service.gallery.records import NewFace
from service.gallery.store import Store
from service.security.envelope import KEY_BYTES, OVERHEAD_BYTES
from service.security.key_file import RECORD, KeyFile
from service.security.master_key import FilePlace
from tests.benchmarks.gallery_start import unit

A_CALL, SINGLES = 1000, 200
# Everything that would not be there without keys. What the others call is not counted twice: see ``Meter``.
SEALING = (
    (store_bulk, "seal_templates"),
    (store_faces, "seal_templates"),
    (store_bulk, "open_templates"),
    (store_faces, "open_templates"),
    (store_keys, "differences"),
    (KeyFile, "add"),
    (KeyFile, "destroy"),
)


class Meter:
    """Processor and wall seconds in the functions that it stands around, and of all."""

    def __init__(self) -> None:
        self.inside, self.all = np.zeros(2), np.zeros(2)
        self._depth = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count what happens in the block."""
        patches = [patch.object(place, name, self._around(getattr(place, name))) for place, name in SEALING]
        for one in patches:
            one.start()
        before = _clocks()
        try:
            yield
        finally:
            self.all += _clocks() - before
            for one in patches:
                one.stop()

    def _around(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **named: Any) -> Any:
            before, self._depth = _clocks(), self._depth + 1
            try:
                return work(*args, **named)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.inside += _clocks() - before

        return counted

    @property
    def cpu_share(self) -> float:
        return float(self.inside[0] / self.all[0])

    @property
    def wall_share(self) -> float:
        return float(self.inside[1] / self.all[1])


@dataclass(frozen=True)
class Costs:
    """Of one dimension; ``bare`` is opening all templates in memory, with nothing around."""

    faces: int
    dimension: int
    imports: Meter
    one: Meter
    opening: Meter
    loading: Meter
    deleting: Meter
    database_bytes: int


def measure(folder: Path, dimension: int, faces: int) -> Costs:
    database, rng = folder / "gallery" / "gallery.db", np.random.default_rng(dimension)
    imports, one, opening, loading, deleting = (Meter() for _ in range(5))
    opened = _open(database)
    galleries = Galleries(opened, "0" * 64, dimension)
    galleries.put("g", None, None)
    for start in range(0, faces, A_CALL):
        vectors = unit(rng, A_CALL, dimension)
        many = [
            store_bulk.BulkPerson(f"p{start + i}", faces=(store_bulk.BulkFace(f"f{start + i}", vector),))
            for i, vector in enumerate(vectors)
        ]
        with imports.running():
            galleries.import_persons("g", many)
    vectors = unit(rng, SINGLES, dimension)
    with one.running():
        for number, vector in enumerate(vectors):
            opened.put_person("g", f"one{number}")
            galleries.enrol("g", f"one{number}", [NewFace(vector)], None, lambda _: {})
    opened.close()
    with opening.running():
        opened = _open(database)
    galleries = Galleries(opened, "0" * 64, dimension)
    with loading.running():
        galleries.load()
    with deleting.running():
        for number in range(SINGLES):
            galleries.delete_person("g", f"one{number}")
    opened.close()
    return Costs(faces, dimension, imports, one, opening, loading, deleting, database.stat().st_size)


def show(costs: list[Costs]) -> None:
    rows: list[tuple[str, Callable[[Costs], str]]] = [
        ("of an import, 1,000 persons a call", lambda c: f"{c.imports.cpu_share:.1%}"),
        ("of one enrolment: person and face", lambda c: f"{c.one.wall_share:.1%}"),
        ("of a start: opening and loading", lambda c: f"{_start(c, inside=True) / _start(c):.1%}"),
        ("of a deletion: the key destroyed", lambda c: f"{c.deleting.wall_share:.1%}"),
        ("bytes sealed / in clear", lambda c: f"{(4 * c.dimension + OVERHEAD_BYTES) / (4 * c.dimension):.3f}"),
        ("", lambda c: f"d = {c.dimension}"),
        ("key and seal, µs a face of an import", lambda c: f"{_a_face(c, c.imports.inside[0]):.1f}"),
        ("key and open, µs a face of a start", lambda c: f"{_a_face(c, _start(c, inside=True)):.1f}"),
        ("one enrolment, ms on the clock", lambda c: f"{1e3 * c.one.all[1] / SINGLES:.2f}"),
        ("one deletion, ms on the clock", lambda c: f"{1e3 * c.deleting.all[1] / SINGLES:.2f}"),
        ("  of which the key is destroyed in", lambda c: f"{1e3 * c.deleting.inside[1] / SINGLES:.2f}"),
        ("opening the store, s of processor", lambda c: f"{c.opening.all[0]:.2f}"),
        ("all faces into memory, s of processor", lambda c: f"{c.loading.all[0]:.2f}"),
        ("both, for 1,000,000 faces, s", lambda c: f"{_start(c):.2f} × {1e6 / c.faces:g} = {_million(c):.1f}"),
        ("bytes a face: database, keys", lambda c: f"{c.database_bytes / c.faces:,.0f}, {RECORD}"),
    ]
    print(f"{costs[0].faces:,} faces, one a person; AES-256-GCM, keys of {KEY_BYTES} bytes. Shares of sealing:\n")
    for name, figure in rows:
        print(f"{name:40}" + "".join(f"{figure(one):>20}" for one in costs))


def _open(database: Path) -> Store:
    keys = database.parent.parent / "keys"
    return Store.open(database, keys=KeyFile.open(keys, FilePlace(keys / "master.key")))


def _clocks() -> Any:
    return np.array([time.process_time(), time.perf_counter()])


def _a_face(costs: Costs, seconds: float) -> float:
    return 1e6 * seconds / costs.faces


def _start(costs: Costs, inside: bool = False) -> float:
    parts = (costs.opening, costs.loading)
    return float(sum((part.inside if inside else part.all)[0] for part in parts))


def _million(costs: Costs) -> float:
    return _start(costs) * 1e6 / costs.faces


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data-dir", type=Path, required=True, help="on the disk to measure")
    arguments.add_argument("--faces", type=int, default=200_000, help="a multiple of 1,000")
    arguments.add_argument("--dimensions", type=int, nargs="+", default=[128, 512])
    args = arguments.parse_args()
    costs = []
    for dimension in args.dimensions:
        with tempfile.TemporaryDirectory(dir=args.data_dir) as folder:
            costs.append(measure(Path(folder), dimension, args.faces))
    show(costs)


if __name__ == "__main__":
    main()
