"""A numpy array that grows at its end."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Column:
    """Numbers by row, in order of arrival. Not thread-safe."""

    def __init__(self, dtype: type) -> None:
        self._all: NDArray[Any] = np.empty(0, dtype)
        self._used = 0

    @property
    def values(self) -> NDArray[Any]:
        """(n,), to be written to until it grows."""
        return self._all[: self._used]

    def reserve(self, more: int) -> None:
        """Grow now, so that ``more`` values can be added without new memory."""
        stop = self._used + more
        if stop > len(self._all):
            grown = np.zeros(max(stop, len(self._all) * 5 // 4, 64), self._all.dtype)
            grown[: self._used] = self.values
            self._all = grown

    def extend(self, values: NDArray[Any]) -> None:
        self.reserve(len(values))
        stop = self._used + len(values)
        self._all[self._used : stop] = values
        self._used = stop
