"""What a segment needs of vectors that can be scanned."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Keys = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Best:
    """What a scan found.

    Attributes:
        rows: for each probe int64 (m,), in no order; m differs.
        missed: float64 (q,), no row that was not given for this probe has an exact inner product above it.
    """

    rows: tuple[Keys, ...]
    missed: NDArray[np.float64]


class VectorIndex(Protocol):
    """Vectors by row number, in order of arrival from 0. Rows are never removed, only overwritten with zeros.

    However rough a copy it scans, what it says of that roughness (``Best.missed``, ``score_error``) holds, so that
    a caller who compares exact inner products knows when it has seen enough.

    Not thread-safe: ``add`` and ``erase`` need the index for themselves, the others may run side by side.

    Attributes:
        score_error: no value of ``scores`` is further than this from the exact inner product, for unit vectors.
        largest_k: the most rows that ``search`` may be asked for.
    """

    score_error: float
    largest_k: int

    def __len__(self) -> int: ...

    def add(self, vectors: Vectors) -> None:
        """Append float32 (n, d), all or, where it raises, perhaps a part of them."""

    def erase(self, rows: Keys) -> None:
        """Overwrite the rows with zeros, in every copy."""

    def search(self, probes: Vectors, k: int) -> Best:
        """About the ``k`` rows most like each of the probes, float32 (q, d); exactly which, ``Best.missed`` tells."""

    def scores(self, probes: Vectors, rows: Keys | None) -> Vectors:
        """float32 (q, m), the inner product of every probe with each of ``rows``; with all rows for None."""

    def vectors(self, rows: Keys) -> Vectors:
        """A copy of the rows, float32 (m, d)."""
