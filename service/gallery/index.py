"""Rows of vectors that can be scanned. The only module that knows FAISS."""

import os
import warnings
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.errors import DeviceError
from service.gallery.records import Templates

# Read when FAISS loads its OpenMP. Threads that spin while they wait take the cores from those they wait for: with
# other load on the machine 64 probes over 200,000 took 600 ms instead of 70.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
with warnings.catch_warnings():
    # Made by SWIG, whose types lack __module__: nothing that can be mended here, and an error under pytest.
    warnings.simplefilter("ignore", DeprecationWarning)
    import faiss

# Otherwise batches of fewer than 128,000 probes don't go through BLAS: 8 times slower for 64 probes.
faiss.cvar.distance_compute_blas_threshold = 1

# Growth copies one block at most, 128 MiB at 512 dimensions, not the gallery.
BLOCK_ROWS = 1 << 16
GATHER_ROWS = 2048
UNIT_TOLERANCE = 1e-2

Vectors = NDArray[np.float32]
Keys = NDArray[np.int64]


class VectorIndex(Protocol):
    """Vectors by row number, in order of arrival from 0. Rows are never removed, only overwritten with zeros.

    Not thread-safe: ``add`` and ``erase`` need the index for themselves, the others may run side by side.
    A form on a GPU needs no more than this: it can scan a half-precision copy (``score_error`` says how rough it is)
    and keep the float32 rows in RAM for ``vectors`` and ``scores``.

    Attributes:
        score_error: no score is further than this from the exact inner product, for unit vectors.
        largest_k: the most rows that one ``search`` gives.
    """

    score_error: float
    largest_k: int

    def __len__(self) -> int: ...

    def add(self, vectors: Vectors) -> None:
        """Append float32 (n, d), all or, where it raises, perhaps a part of them."""

    def erase(self, rows: Keys) -> None:
        """Overwrite the rows with zeros."""

    def search(self, probes: Vectors, k: int) -> tuple[Vectors, Keys]:
        """Scores and rows, both (q, min(k, n)) and in no order, of the rows that score highest for float32 (q, d)."""

    def scores(self, probes: Vectors, rows: Keys | None) -> Vectors:
        """float32 (q, m), the score of every probe with each of ``rows``; of all rows for None."""

    def vectors(self, rows: Keys) -> Vectors:
        """A copy of the rows, float32 (m, d)."""


def make_index(dimension: int, device: str = "cpu") -> VectorIndex:
    """An empty index on ``device``.

    Raises:
        DeviceError: for anything but "cpu"; GpuIndexFlat has not been run yet.
    """
    if device != "cpu":
        raise DeviceError(f"There is no index for the device {device!r}; use 'cpu'.", {"device": device})
    return FlatIndex(dimension)


class FlatIndex:
    """Exact float32 inner products in RAM, in blocks of FAISS Flat indexes."""

    largest_k = 4096

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self._blocks: list[Any] = []
        # The bound for a sum of d rounded products, with room for norms that are not quite 1.
        self.score_error = dimension * 2.0**-23

    def __len__(self) -> int:
        return sum(block.ntotal for block in self._blocks)

    def add(self, vectors: Vectors) -> None:
        vectors = np.ascontiguousarray(vectors, np.float32)
        while len(vectors):
            if not self._blocks or self._blocks[-1].ntotal == BLOCK_ROWS:
                self._blocks.append(faiss.IndexFlatIP(self._dimension))
            part = vectors[: BLOCK_ROWS - self._blocks[-1].ntotal]
            self._blocks[-1].add(part)
            vectors = vectors[len(part) :]

    def erase(self, rows: Keys) -> None:
        for number, block in enumerate(self._blocks):
            self._view(block)[rows[rows // BLOCK_ROWS == number] % BLOCK_ROWS] = 0

    def search(self, probes: Vectors, k: int) -> tuple[Vectors, Keys]:
        scan = self._scan_one if len(probes) == 1 else self._scan_many
        parts = [scan(number, probes, min(k, block.ntotal)) for number, block in enumerate(self._blocks)]
        if not parts:
            return np.empty((len(probes), 0), np.float32), np.empty((len(probes), 0), np.int64)
        scores, rows = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
        if scores.shape[1] <= k:
            return scores, rows
        best = np.argpartition(scores, scores.shape[1] - k, axis=1)[:, -k:]
        return np.take_along_axis(scores, best, axis=1), np.take_along_axis(rows, best, axis=1)

    def scores(self, probes: Vectors, rows: Keys | None) -> Vectors:
        parts: Iterator[Vectors] = map(self._view, self._blocks)
        if rows is not None:
            # In pieces that stay in the cache between being gathered and being multiplied.
            parts = (self.vectors(rows[start : start + GATHER_ROWS]) for start in range(0, len(rows), GATHER_ROWS))
        products = [np.empty((len(probes), 0), np.float32), *(probes @ part.T for part in parts)]
        return np.concatenate(products, axis=1)

    def vectors(self, rows: Keys) -> Vectors:
        out = np.empty((len(rows), self._dimension), np.float32)
        blocks = rows // BLOCK_ROWS
        for number in np.unique(blocks):
            here = np.flatnonzero(blocks == number)
            out[here] = self._view(self._blocks[number])[rows[here] % BLOCK_ROWS]
        return out

    def _scan_one(self, number: int, probes: Vectors, k: int) -> tuple[Vectors, Keys]:
        # FAISS scans for a single probe on one core; this product uses all, and waits only for the memory.
        scores = self._view(self._blocks[number]) @ probes[0]
        best = np.argpartition(scores, len(scores) - k)[-k:]
        return scores[None, best], best[None] + number * BLOCK_ROWS

    def _scan_many(self, number: int, probes: Vectors, k: int) -> tuple[Vectors, Keys]:
        scores, rows = self._blocks[number].search(probes, k)
        return scores, rows + number * BLOCK_ROWS

    def _view(self, block: Any) -> Vectors:
        """The block's own memory as float32 (n, d), good until the block grows."""
        flat: Vectors = faiss.rev_swig_ptr(block.get_xb(), block.ntotal * self._dimension)
        return flat.reshape(-1, self._dimension)


class FaceRows:
    """A vector index with the face and the person of each row, and which rows are dead. Not thread-safe.

    Attributes:
        faces, persons: int64 (n,).
        dead: bool (n,).
        live: how many rows are not dead.
        persons_live: how many persons have such a row.
    """

    def __init__(self, dimension: int, device: str = "cpu") -> None:
        self._dimension, self._device = dimension, device
        self.index = make_index(dimension, device)
        self.live = self.persons_live = 0
        self._used = 0
        self._largest_face = self._largest_person = np.iinfo(np.int64).min
        self._faces = np.empty(0, np.int64)
        self._persons = np.empty(0, np.int64)
        self._dead = np.empty(0, np.bool_)

    def __len__(self) -> int:
        """All rows, dead ones too."""
        return self._used

    @property
    def faces(self) -> Keys:
        return self._faces[: self._used]

    @property
    def persons(self) -> Keys:
        return self._persons[: self._used]

    @property
    def dead(self) -> NDArray[np.bool_]:
        return self._dead[: self._used]

    def append(self, templates: Templates) -> None:
        """Raises ValueError, and changes nothing, for shapes that do not agree, faces that are there already, and
        embeddings that are not of unit length."""
        self._check(templates)
        start, stop = self._used, self._used + len(templates.faces)
        self._reserve(stop)
        try:
            self.index.add(templates.embeddings)
        except BaseException:
            # What was appended before it failed stays in the index; its rows count from now on, as dead ones.
            self._used = len(self.index)
            self._dead[start : self._used] = True
            raise
        self.persons_live += len(np.unique(templates.persons)) - self._present(templates.persons)
        self._faces[start:stop], self._persons[start:stop] = templates.faces, templates.persons
        self._dead[start:stop] = False
        self._used = stop
        self.live += stop - start
        if stop > start:
            self._largest_face = max(self._largest_face, int(templates.faces.max()))
            self._largest_person = max(self._largest_person, int(templates.persons.max()))

    def bury(self, rows: Keys) -> None:
        """Mark the rows, each given once, as dead and overwrite their vectors."""
        rows = rows[~self._dead[rows]]
        persons = np.unique(self._persons[rows])
        self._dead[rows] = True
        self.live -= len(rows)
        self.persons_live -= len(persons) - self._present(persons)
        self.index.erase(rows)

    def rows_of(self, faces: Keys) -> Keys:
        """The live rows of these faces; faces that are not there are passed over."""
        return np.flatnonzero(np.isin(self.faces, faces) & ~self.dead)

    def live_part(self, start: int, stop: int) -> tuple[Keys, Templates]:
        """The live rows in a range of rows: their numbers and what they hold."""
        rows = start + np.flatnonzero(~self.dead[start:stop])
        return rows, Templates(self._faces[rows], self._persons[rows], self.index.vectors(rows))

    def emptied(self) -> "FaceRows":
        return FaceRows(self._dimension, self._device)

    def _check(self, templates: Templates) -> None:
        n = len(templates.faces)
        shapes = templates.faces.shape, templates.persons.shape, templates.embeddings.shape
        if shapes != ((n,), (n,), (n, self._dimension)):
            raise ValueError(f"Templates of shapes {shapes} do not fit an index of dimension {self._dimension}.")
        norms = np.linalg.norm(templates.embeddings, axis=1)
        if not np.all(np.abs(norms - 1) <= UNIT_TOLERANCE):
            raise ValueError("An embedding is not of unit length.")
        if len(np.unique(templates.faces)) < n:
            raise ValueError("A face is given twice.")
        # Keys grow with time, so the search for a double is rarely needed.
        if n and templates.faces.min() <= self._largest_face and len(self.rows_of(templates.faces)):
            raise ValueError("A face is in the index already.")

    def _present(self, persons: Keys) -> int:
        """How many of these persons have a live row."""
        older = persons[persons <= self._largest_person]
        return len(np.unique(self.persons[np.isin(self.persons, older) & ~self.dead])) if len(older) else 0

    def _reserve(self, rows: int) -> None:
        if rows > len(self._faces):
            more = max(rows, len(self._faces) * 5 // 4, 64) - self._used
            self._faces = np.concatenate([self.faces, np.zeros(more, np.int64)])
            self._persons = np.concatenate([self.persons, np.zeros(more, np.int64)])
            self._dead = np.concatenate([self.dead, np.ones(more, np.bool_)])
