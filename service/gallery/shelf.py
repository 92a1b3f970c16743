"""Vectors in RAM that are looked up and never scanned."""

from collections.abc import Iterator

import numpy as np

from service.gallery.vectors import Keys, Vectors

# A block is there as a whole, but pages of it that nothing was written to take no memory.
BLOCK_ROWS = 1 << 10


class Shelf:
    """float32 vectors of dimension d by number, in order of arrival from 0. Not thread-safe."""

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self._blocks: list[Vectors] = []
        self._used = 0

    def __len__(self) -> int:
        return self._used

    def add(self, vectors: Vectors) -> None:
        """Append float32 (n, d): all, or none where there is no memory for them."""
        while self._used + len(vectors) > BLOCK_ROWS * len(self._blocks):
            self._blocks.append(np.zeros((BLOCK_ROWS, self._dimension), np.float32))
        while len(vectors):
            number, inside = divmod(self._used, BLOCK_ROWS)
            part = vectors[: BLOCK_ROWS - inside]
            self._blocks[number][inside : inside + len(part)] = part
            self._used += len(part)
            vectors = vectors[len(part) :]

    def erase(self, numbers: Keys) -> None:
        """Overwrite vectors with zeros."""
        for block, _, inside in self._by_block(numbers):
            block[inside] = 0

    def vectors(self, numbers: Keys) -> Vectors:
        """A copy of the vectors, float32 (m, d)."""
        out = np.empty((len(numbers), self._dimension), np.float32)
        for block, here, inside in self._by_block(numbers):
            out[here] = block[inside]
        return out

    def _by_block(self, numbers: Keys) -> Iterator[tuple[Vectors, Keys, Keys]]:
        """Of each block that has some of ``numbers``: which of them, and their numbers inside the block."""
        of = numbers // BLOCK_ROWS
        for number in np.unique(of):
            here = np.flatnonzero(of == number)
            yield self._blocks[number], here, numbers[here] % BLOCK_ROWS
