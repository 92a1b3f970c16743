"""A block of rows in RAM: float32, and once it is full, a copy in 8 bits that is scanned in a quarter of the time.

A product of two 8-bit vectors is an integer and exact; how far it is from that of the float32 vectors is bounded. With
the rounded x̂, q̂ of a row and a probe: |x̂·q̂ - x·q| ≤ ‖x̂‖·‖q̂ - q‖ + ‖x̂ - x‖·‖q‖, by Cauchy and Schwarz.
"""

import threading
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.gallery.faiss_library import faiss
from service.gallery.vectors import Keys, Vectors
from service.runtime.products import LARGEST_RIGHT, ZERO, integer_products

# Rows of which only the best score is looked at, at first.
GROUP_ROWS = 64
# Up to so many probes FAISS scans for each of them, which waits only for the memory; more are one matrix product.
FEW_PROBES = 5

# Where more of a block's rows than this cannot be told apart in 8 bits, they are compared in float32.
CROWDED_SHARE = 1 / 8
# Up to so many rows, gathering them costs less than a product with the whole block.
GATHER_ROWS = 8192

# Rows that are rounded at a time, so that what is made of them stays in the caches.
SEALED_ROWS = 512
LARGEST_CODE = 127
# Of the few operations in float32 between an integer product and a score; relative to scores of at most 1.
SLACK = 1e-6
Floats = NDArray[np.float64]


class Probes:
    """Vectors that are searched for, float32 (q, d), rounded to integers as the scans need them."""

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors
        self.norms: Floats = np.linalg.norm(vectors.astype(np.float64), axis=1)

    def __len__(self) -> int:
        return len(self.vectors)

    @cached_property
    def rounded(self) -> "Rounded":
        """As exactly as the scan for so many probes allows."""
        return Rounded(self.vectors, LARGEST_CODE if len(self) <= FEW_PROBES else LARGEST_RIGHT)


class Rounded:
    """Vectors as integer multiples of a step of their own.

    Attributes:
        codes: float32 (q, d), whole numbers within ±``largest``.
        steps, errors: float64 (q,); ``codes · steps`` is nowhere further than ``errors`` (a norm) from the vector.
    """

    def __init__(self, vectors: Vectors, largest: int) -> None:
        peaks = np.abs(vectors).max(axis=1).astype(np.float64)
        self.steps: Floats = np.where(peaks > 0, peaks, 1) / largest
        self.codes = np.rint(vectors / self.steps[:, None]).astype(np.float32)
        self.errors: Floats = np.linalg.norm(self.codes * self.steps[:, None] - vectors, axis=1)


@dataclass(frozen=True, eq=False)
class Found:
    """Rows of one block that may be among the best.

    Attributes:
        probes, rows: int64 (m,), pairs of a probe and a row of this block.
        scores: float64 (m,), their inner products, nowhere further than ``errors`` from the exact ones.
        errors: float64 (q,).
        missed: float64 (q,), as in ``Best``.
    """

    probes: Keys
    rows: Keys
    scores: Floats
    errors: Floats
    missed: Floats

    def above(self, lowest: Floats) -> "Found":
        """Without the rows that cannot reach ``lowest``, (q,)."""
        kept = self.scores >= (lowest - self.errors)[self.probes]
        missed = np.maximum(self.missed, lowest)
        return Found(self.probes[kept], self.rows[kept], self.scores[kept], self.errors, missed)


class Lowest:
    """The score that it takes to be among the ``k`` best of what was scanned so far, for each probe. Thread-safe."""

    def __init__(self, probes: int, k: int) -> None:
        self._best = np.full((k, probes), -np.inf)
        self._lock = threading.Lock()

    @property
    def now(self) -> Floats:
        """float64 (q,), -inf before ``k`` rows."""
        lowest: Floats = self._best[0]
        return lowest

    def after(self, scores: Floats) -> Floats:
        """``now``, with the scores (m, q) of further rows."""
        with self._lock:
            best = np.concatenate([self._best, scores])
            self._best = np.partition(best, len(scores), axis=0)[len(scores) :]
            return self.now


class Block:
    """Up to ``capacity`` rows, a power of two, of dimension d. Not thread-safe but for searches side by side."""

    def __init__(self, dimension: int, capacity: int, score_error: float) -> None:
        """``score_error``: of an inner product in float32, for unit vectors."""
        self._dimension, self._capacity, self._score_error = dimension, capacity, score_error
        self._floats = faiss.IndexFlatIP(dimension)
        self._codes: Any = None
        # Of the codes, once there are any: what a code of 1 stands for; of all rows the largest ‖x̂ - x‖ and ‖x̂‖.
        self._step = self._error = self._longest = 0.0

    def __len__(self) -> int:
        return int(self._floats.ntotal)

    @property
    def room(self) -> int:
        return self._capacity - len(self)

    @property
    def vectors(self) -> Vectors:
        """The rows themselves, float32 (n, d): good, and to be written to, until the block grows."""
        flat: Vectors = faiss.rev_swig_ptr(self._floats.get_xb(), len(self) * self._dimension)
        return flat.reshape(-1, self._dimension)

    def add(self, vectors: Vectors) -> None:
        """Append rows, no more than there is room for."""
        self._floats.add(vectors)
        if not self.room:
            self._seal()

    def erase(self, rows: Keys) -> None:
        """Overwrite rows with zeros."""
        self.vectors[rows] = 0
        if self._codes is not None:
            self._code_bytes[rows] = ZERO

    def search(self, probes: Probes, k: int, lowest: Lowest) -> Found:
        """The rows that may be among the ``k`` best of all blocks, as far as ``lowest`` knows them."""
        if self._codes is None:
            return self._by_floats(probes, min(k, len(self)), lowest)
        if len(probes) <= FEW_PROBES:
            return self._by_codes(probes, min(k, len(self)), lowest)
        return self._by_groups(probes, k, lowest)

    def products(self, probes: Probes, found: Found) -> Vectors:
        """The inner products in float32 of what was found, (m,)."""
        if len(found.rows) > GATHER_ROWS:
            every: Vectors = self.vectors @ probes.vectors.T
            return every[found.rows, found.probes]
        products: Vectors = np.einsum("ij,ij->i", self.vectors[found.rows], probes.vectors[found.probes])
        return products

    def _seal(self) -> None:
        vectors = self.vectors
        self._step = float(max(vectors.max(), -vectors.min())) / LARGEST_CODE or 1.0
        codes = faiss.IndexScalarQuantizer(
            self._dimension, faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT
        )
        for part in (vectors[start : start + SEALED_ROWS] for start in range(0, len(vectors), SEALED_ROWS)):
            whole = np.rint(part / np.float32(self._step))
            codes.add(whole)
            whole *= np.float32(self._step)
            self._longest = max(self._longest, _longest(whole))
            self._error = max(self._error, _longest(whole - part))
        self._codes = codes

    @property
    def _code_bytes(self) -> NDArray[np.uint8]:
        """uint8 (n, d): 128 more than the whole numbers; to be written to."""
        flat: NDArray[np.uint8] = faiss.rev_swig_ptr(self._codes.codes.data(), len(self) * self._dimension)
        return flat.reshape(-1, self._dimension)

    def _by_floats(self, probes: Probes, k: int, lowest: Lowest) -> Found:
        scores, rows = self._float_products(probes, k)
        return self._among(scores, rows, self._float_errors(probes), lowest.after(scores.T.astype(np.float64)))

    def _by_codes(self, probes: Probes, k: int, lowest: Lowest) -> Found:
        products, rows = self._codes.search(probes.rounded.codes, k)
        scores = products * self._units(probes)[:, None]
        return self._among(scores, rows, self._errors(probes), lowest.after(scores.T))

    def _float_products(self, probes: Probes, k: int) -> tuple[Vectors, Keys]:
        """The best rows of each probe, (q, k), by inner products in float32."""
        if len(probes) == 1:
            # FAISS scans for a single probe on one core; this product uses all, and waits only for the memory.
            products = self.vectors @ probes.vectors[0]
            rows = np.argpartition(products, len(products) - k)[None, -k:]
            return products[rows], rows
        scores, rows = self._floats.search(probes.vectors, k)
        return scores, rows

    def _among(self, scores: Vectors | Floats, rows: Keys, errors: Floats, lowest: Floats) -> Found:
        """Of the best rows, (q, k), those that may be among the best of all blocks."""
        least = np.full(len(scores), -np.inf) if scores.shape[1] == len(self) else scores.min(axis=1)
        numbers = np.repeat(np.arange(len(scores)), scores.shape[1])
        found = Found(numbers, rows.ravel(), scores.ravel().astype(np.float64), errors, least + errors)
        return found.above(lowest)

    def _by_groups(self, probes: Probes, k: int, lowest: Lowest) -> Found:
        """One matrix product. Its rows are looked at in groups, of which few hold one that is good enough."""
        # Twice as many groups as are wanted: the k best of them say early what it takes.
        size = min(GROUP_ROWS, 1 << max(0, (len(self) // (2 * k)).bit_length() - 1))
        codes = np.ascontiguousarray(probes.rounded.codes.T).astype(np.int8)
        groups = integer_products(self._code_bytes, codes).reshape(-1, size, len(probes))
        units, errors = self._units(probes), self._errors(probes)
        best = groups.max(axis=1) * units
        cut = lowest.after(best) - errors
        places, numbers = np.nonzero(best >= cut)
        scores = groups[places, :, numbers] * units[numbers, None]
        which, offsets = np.nonzero(scores >= cut[numbers, None])
        if len(which) > CROWDED_SHARE * len(self) * len(probes):
            # Its rows were counted: ``lowest`` must not meet them twice.
            return self._among(*self._float_products(probes, min(k, len(self))), self._float_errors(probes), lowest.now)
        rows = places[which] * size + offsets
        return Found(numbers[which], rows, scores[which, offsets], errors, cut + errors)

    def _units(self, probes: Probes) -> Floats:
        """What a product of two codes of 1 stands for, (q,)."""
        return probes.rounded.steps * self._step

    def _float_errors(self, probes: Probes) -> Floats:
        return self._score_error * np.maximum(1, probes.norms)

    def _errors(self, probes: Probes) -> Floats:
        return self._longest * probes.rounded.errors + self._error * probes.norms + SLACK


def _longest(vectors: Vectors) -> float:
    return float(np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64).max()))
