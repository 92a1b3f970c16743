"""The searchable persons of one gallery: exact answers, while their faces come and go."""

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.gallery.locks import ReadWriteLock
from service.gallery.person_rows import PersonRows
from service.gallery.records import Templates
from service.gallery.vectors import Keys, Vectors

# Compaction starts when more than this share of the vectors is dead, and at least so many.
DEAD_SHARE = 0.10
DEAD_ROWS = 1024

# Vectors copied under one hold of the read lock, so that enrolments wait for a piece of a compaction and not for all.
COPIED_VECTORS = 8192
# Rows asked for at first, as a filter may drop most: for each person wanted, and at least. Then four times as many.
OVERFETCH, FEWEST_ROWS, WIDER = 4, 32, 4
# Up to this share of the rows, gathering those of a filter costs less than scanning all and dropping the others.
GATHERED_SHARE = 0.25
# Float32 scores of several probes held at once: 64 MiB.
LARGEST_TABLE = 1 << 24

logger = logging.getLogger(__name__)
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Hit:
    """A person found.

    Attributes:
        face: the key of the person's face that is most like the probe.
        similarity: the inner product of the probe and the person's template, the mean of the faces.
    """

    person: int
    face: int
    similarity: float


class Segment:
    """One gallery's persons. Thread-safe: searches run side by side; changes wait for searches and for each other."""

    def __init__(self, dimension: int, device: str = "cpu") -> None:
        """
        Raises:
            DeviceError: the index cannot be made on ``device``.
        """
        self.dimension = dimension
        self._rows = PersonRows(dimension, device)
        self._lock = ReadWriteLock()
        self._compacting = threading.Lock()

    def __len__(self) -> int:
        """Live faces."""
        with self._lock.reading():
            return self._rows.faces_live

    @property
    def persons(self) -> int:
        """Persons with a live face."""
        with self._lock.reading():
            return self._rows.persons_live

    def sizes(self, persons: Keys | None = None) -> dict[int, int]:
        """How many persons have so many live faces; of ``persons``, int64 (n,), or of all."""
        with self._lock.reading():
            if persons is None:
                return dict(self._rows.sizes)
            faces = self._rows.counts[np.isin(self._rows.persons, persons) & ~self._rows.dead]
        return {int(size): int(number) for size, number in zip(*np.unique(faces, return_counts=True), strict=True)}

    @property
    def dead(self) -> int:
        """Overwritten vectors that compaction has not taken out yet."""
        with self._lock.reading():
            return self._rows.waste[0]

    def faces(self) -> Keys:
        """The keys of the live faces, int64 (n,), in no order."""
        with self._lock.reading():
            return self._rows.faces()

    def owners(self, faces: Keys) -> Keys:
        """The persons of those of ``faces``, int64 (n,), that are there, in no order."""
        with self._lock.reading():
            return self._rows.persons[self._rows.rows_with(faces)]

    def add(self, templates: Templates) -> None:
        """Make faces searchable: when this returns, every search sees them.

        Raises:
            ValueError: shapes that do not agree, a face that is there already, an embedding not of unit length;
                nothing is added.
        """
        with self._lock.writing():
            self._rows.add(templates)
        self._compact_if_wasteful()

    def remove(self, faces: Keys) -> None:
        """Take faces (int64 (n,)) out and overwrite their vectors in RAM; faces that are not there are passed over."""
        with self._lock.writing():
            self._rows.remove(faces)
        self._compact_if_wasteful()

    def change(self, added: Templates, removed: Keys) -> None:
        """As ``add`` and ``remove`` in one step: no search sees the one without the other.

        Raises ValueError like ``add``. Whatever is raised, the segment may have only a part of the change.
        """
        with self._lock.writing():
            if len(added.faces):
                self._rows.add(added)
            if len(removed):
                self._rows.remove(removed)
        self._compact_if_wasteful()

    def search(self, probes: Vectors, top_k: int, persons: Keys | None = None) -> list[list[Hit]]:
        """The ``top_k`` persons most like each probe, best first; equals by the smaller key.

        Exact: similarities are computed in float64 from the stored float32, in an order that does not depend on how
        many probes or rows there are. Fewer than ``top_k`` only where there are fewer persons.

        Args:
            probes: float32 (q, d), unit length.
            persons: int64 (n,), the only persons to search among; None for all.

        Raises:
            ValueError: probes of another shape or not finite, or ``top_k`` below 1.
        """
        probes = np.ascontiguousarray(probes, np.float32)
        if probes.ndim != 2 or probes.shape[1] != self.dimension or not np.isfinite(probes).all():
            raise ValueError(f"Probes of shape {probes.shape} are not finite vectors of dimension {self.dimension}.")
        if top_k < 1:
            raise ValueError(f"top_k is {top_k}; it is at least 1.")
        if not len(probes):
            return []
        with self._lock.reading():
            return _Search(self._rows, probes, top_k, persons).run()

    def compact(self) -> None:
        """Build the index anew without dead rows; searches and changes go on meanwhile, but for the swap at the end."""
        with self._compacting:
            self._compact()

    def _compact_if_wasteful(self) -> None:
        with self._lock.reading():
            dead, kept = self._rows.waste
        if dead >= DEAD_ROWS and dead > DEAD_SHARE * kept and not self._compacting.locked():
            threading.Thread(target=self._compact_quietly, name="segment-compaction", daemon=True).start()

    def _compact_quietly(self) -> None:
        if not self._compacting.acquire(blocking=False):
            return
        try:
            self._compact()
        except Exception:
            # The old index is whole and goes on answering; the next removal tries again.
            logger.exception("Compaction failed.")
        finally:
            self._compacting.release()

    def _compact(self) -> None:
        # Rows keep their numbers but for compaction, and only one runs: what was copied needs no second look, except
        # for the rows buried since, which the swap buries again.
        fresh, origins, done = self._rows.emptied(), [np.empty(0, np.int64)], 0
        while True:
            with self._lock.reading():
                end = self._rows.part_end(done, COPIED_VECTORS)
                if end >= len(self._rows):
                    break
                rows, templates = self._rows.live_part(done, end)
            fresh.append(templates)
            origins.append(rows)
            done = end
        with self._lock.writing():
            rows, templates = self._rows.live_part(done, len(self._rows))
            fresh.append(templates)
            fresh.bury(np.flatnonzero(self._rows.dead[np.concatenate([*origins, rows])]))
            self._rows = fresh


class _Search:
    """One call of ``Segment.search``, under the read lock."""

    def __init__(self, rows: PersonRows, probes: Vectors, top_k: int, persons: Keys | None) -> None:
        self._rows, self._index, self._probes, self._top_k = rows, rows.index, probes, top_k
        self._probes64 = probes.astype(np.float64)
        # Twice: what was scored and what it is compared with may both be off.
        norms = np.maximum(1.0, np.linalg.norm(self._probes64, axis=1))
        self._margins: NDArray[np.float64] = 2 * self._index.score_error * norms
        self._wanted: Mask = ~rows.dead
        if persons is not None:
            self._wanted &= np.isin(rows.persons, persons)
        self._wanted_count = rows.persons_live if persons is None else int(np.count_nonzero(self._wanted))
        self._hits: list[list[Hit]] = [[] for _ in probes]

    def run(self) -> list[list[Hit]]:
        open_probes = np.arange(len(self._probes))
        k = max(OVERFETCH * self._top_k, FEWEST_ROWS)
        widest = min(self._index.largest_k, len(self._rows) // WIDER)
        if self._wanted_count > GATHERED_SHARE * len(self._rows):
            while len(open_probes) and k <= widest:
                open_probes = self._by_best_rows(open_probes, k)
                k *= WIDER
        if self._wanted_count and len(open_probes):
            self._by_all_rows(open_probes)
        return self._hits

    def _by_best_rows(self, numbers: Keys, k: int) -> Keys:
        """Answer the probes of these numbers that ``k`` rows are enough for; return the others."""
        best = self._index.search(self._probes[numbers], k)
        unsure = []
        for number, candidates, missed in zip(numbers, best.rows, best.missed, strict=True):
            hits = self._best_persons(number, candidates[self._wanted[candidates]])
            if len(hits) == self._top_k and hits[-1].similarity > missed:
                self._hits[number] = hits
            else:
                unsure.append(number)
        return np.array(unsure, np.int64)

    def _by_all_rows(self, numbers: Keys) -> None:
        rows = None if self._wanted_count == len(self._rows) else np.flatnonzero(self._wanted)
        at_once = max(1, LARGEST_TABLE // self._wanted_count)
        for some in (numbers[start : start + at_once] for start in range(0, len(numbers), at_once)):
            for number, scores in zip(some, self._index.scores(self._probes[some], rows), strict=True):
                place = max(0, len(scores) - self._top_k)
                near = np.flatnonzero(scores >= np.partition(scores, place)[place] - self._margins[number])
                self._hits[number] = self._best_persons(number, near if rows is None else rows[near])

    def _best_persons(self, number: int, candidates: Keys) -> list[Hit]:
        """The best of these rows, by exact similarities."""
        similarities = self._similarities(number, candidates)
        best = np.lexsort((self._rows.persons[candidates], -similarities))[: self._top_k]
        rows = candidates[best]
        faces = self._rows.most_similar(rows, self._probes64[number])
        found = zip(self._rows.persons[rows].tolist(), faces.tolist(), similarities[best].tolist(), strict=True)
        return [Hit(*values) for values in found]

    def _similarities(self, number: int, rows: Keys) -> NDArray[np.float64]:
        # A sum for each row by itself: a matrix product may add up in another order when there are more rows.
        return np.concatenate([np.empty(0), *(self._sums(number, part) for part in _pieces(rows))])

    def _sums(self, number: int, rows: Keys) -> NDArray[np.float64]:
        products = self._index.vectors(rows) * self._probes64[number]
        sums: NDArray[np.float64] = products.sum(axis=1)
        return sums


def _pieces(rows: Keys) -> Iterator[Keys]:
    return (rows[start : start + COPIED_VECTORS] for start in range(0, len(rows), COPIED_VECTORS))
