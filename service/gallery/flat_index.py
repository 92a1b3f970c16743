"""Exact search in RAM, over blocks of rows."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import numpy as np

from service.gallery.block import Block, Found, Lowest, Probes
from service.gallery.faiss_library import faiss
from service.gallery.vectors import Best, Keys, Vectors
from service.runtime.networks import available_cores

# Growth copies one block at most, 32 MiB at 512 dimensions, and a scan's products stay in the caches. A power of two.
BLOCK_ROWS = 1 << 14
GATHER_ROWS = 2048
# Probes of one scan: their products with a block are 16 MiB.
LARGEST_BATCH = 256
T = TypeVar("T")


class FlatIndex:
    """A ``VectorIndex`` of float32 rows, scanned in 8 bits where a block of them is full."""

    largest_k = 4096

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self._blocks: list[Block] = []
        # The bound for a sum of d rounded products, with room for norms that are not quite 1.
        self.score_error = dimension * 2.0**-23

    def __len__(self) -> int:
        return BLOCK_ROWS * (len(self._blocks) - 1) + len(self._blocks[-1]) if self._blocks else 0

    def add(self, vectors: Vectors) -> None:
        vectors = np.ascontiguousarray(vectors, np.float32)
        while len(vectors):
            if not self._blocks or not self._blocks[-1].room:
                self._blocks.append(Block(self._dimension, BLOCK_ROWS, self.score_error))
            room = self._blocks[-1].room
            self._blocks[-1].add(vectors[:room])
            vectors = vectors[room:]

    def erase(self, rows: Keys) -> None:
        for block, _, inside in self._by_block(rows):
            block.erase(inside)

    def search(self, probes: Vectors, k: int) -> Best:
        if len(probes) > LARGEST_BATCH:
            parts = [self.search(probes[i : i + LARGEST_BATCH], k) for i in range(0, len(probes), LARGEST_BATCH)]
            rows = tuple(rows for part in parts for rows in part.rows)
            return Best(rows, np.concatenate([part.missed for part in parts]))
        asked, lowest = Probes(probes), Lowest(len(probes), k)
        found = self._each_block(lambda block, _: block.search(asked, k, lowest))
        found = [part.above(lowest.now) for part in found]
        products = self._each_block(lambda block, number: block.products(asked, found[number]))
        return self._best(asked, k, found, products)

    def scores(self, probes: Vectors, rows: Keys | None) -> Vectors:
        parts: Iterator[Vectors] = (block.vectors for block in self._blocks)
        if rows is not None:
            # In pieces that stay in the cache between being gathered and being multiplied.
            parts = (self.vectors(rows[start : start + GATHER_ROWS]) for start in range(0, len(rows), GATHER_ROWS))
        products = [np.empty((len(probes), 0), np.float32), *(probes @ part.T for part in parts)]
        return np.concatenate(products, axis=1)

    def vectors(self, rows: Keys) -> Vectors:
        out = np.empty((len(rows), self._dimension), np.float32)
        for block, here, inside in self._by_block(rows):
            out[here] = block.vectors[inside]
        return out

    def _by_block(self, rows: Keys) -> Iterator[tuple[Block, Keys, Keys]]:
        """Of each block that has some of ``rows``: which of them, and their numbers inside the block."""
        numbers = rows // BLOCK_ROWS
        for number in np.unique(numbers):
            here = np.flatnonzero(numbers == number)
            yield self._blocks[number], here, rows[here] % BLOCK_ROWS

    def _each_block(self, work: Callable[[Block, int], T]) -> list[T]:
        if len(self._blocks) < 2:
            faiss.omp_set_num_threads(1)  # of this thread; FAISS's own would spin beside the networks
            return [work(block, number) for number, block in enumerate(self._blocks)]
        return list(_pool().map(work, self._blocks, range(len(self._blocks))))

    def _best(self, probes: Probes, k: int, found: list[Found], products: list[Vectors]) -> Best:
        """Of what the blocks found, the ``k`` best for each probe."""
        if not found:
            return Best((np.empty(0, np.int64),) * len(probes), np.full(len(probes), -np.inf))
        numbers = np.concatenate([part.probes for part in found])
        rows = np.concatenate([part.rows + BLOCK_ROWS * number for number, part in enumerate(found)])
        scores = np.concatenate(products)
        missed = np.max([part.missed for part in found], axis=0)
        errors = self.score_error * np.maximum(1, probes.norms)
        order = np.argsort(numbers, kind="stable")
        ends = np.searchsorted(numbers[order], np.arange(1, len(probes)))
        chosen = []
        for probe, mine in enumerate(np.split(order, ends)):
            in_order = mine[np.argpartition(scores[mine], max(0, len(mine) - k))] if len(mine) else mine
            chosen.append(rows[in_order[-k:]])
            if len(mine) > k:
                missed[probe] = max(missed[probe], scores[in_order[:-k]].max() + errors[probe])
        return Best(tuple(chosen), missed)


@cache
def _pool() -> ThreadPoolExecutor:
    """Of all segments together: a thread a core, in which FAISS starts no threads of its own."""
    return ThreadPoolExecutor(available_cores(), "index-scan", initializer=faiss.omp_set_num_threads, initargs=(1,))
