"""Search on a GPU: it scans float16, and the rows it gives are compared again in float32 in RAM.

Not run on a GPU yet. What runs on the CPU, everything but ``on_gpu``, is tested with FAISS's own float16 index there.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from service.gallery.faiss_library import faiss
from service.gallery.vectors import Best, Keys, Vectors

# GPU indexes can't remove or overwrite rows: a block in which some are erased is sent anew, 256 MiB at 512 dimensions.
BLOCK_ROWS = 1 << 17
# Relative rounding to float16, once for a row and once for a probe.
HALF_ERROR = 2 * 2.0**-11


class GpuIndex:
    """A ``VectorIndex`` of float16 rows on a device, with their float32 in RAM."""

    largest_k = 2048  # FAISS's GPU limit

    def __init__(self, dimension: int, new_block: Callable[[int], Any] | None = None) -> None:
        """``new_block``: makes an empty FAISS index of inner products in float16; on the first GPU if None."""
        self._dimension, self._new_block = dimension, new_block or on_gpu
        self._device: list[Any] = []
        self._blocks: list[Vectors] = []
        self._used = 0
        self.score_error = dimension * 2.0**-23

    def __len__(self) -> int:
        return self._used

    def add(self, vectors: Vectors) -> None:
        vectors = np.ascontiguousarray(vectors, np.float32)
        while len(vectors):
            number, inside = divmod(self._used, BLOCK_ROWS)
            if number == len(self._blocks):
                self._device.append(self._new_block(self._dimension))
                self._blocks.append(np.zeros((BLOCK_ROWS, self._dimension), np.float32))
            part = vectors[: BLOCK_ROWS - inside]
            self._blocks[number][inside : inside + len(part)] = part
            self._device[number].add(part)
            self._used += len(part)
            vectors = vectors[len(part) :]

    def erase(self, rows: Keys) -> None:
        for number in np.unique(rows // BLOCK_ROWS):
            self._blocks[number][rows[rows // BLOCK_ROWS == number] % BLOCK_ROWS] = 0
            self._device[number].reset()
            self._device[number].add(self._rows_of(number))

    def search(self, probes: Vectors, k: int) -> Best:
        norms = np.linalg.norm(probes.astype(np.float64), axis=1)
        rows, missed = [np.empty((len(probes), 0), np.int64)], np.full(len(probes), -np.inf)
        for number, block in enumerate(self._device):
            scores, places = block.search(probes, min(k, block.ntotal))
            rows.append(places + number * BLOCK_ROWS)
            if k < block.ntotal:
                error = (HALF_ERROR + self.score_error) * np.maximum(1, norms)
                missed = np.maximum(missed, scores.min(axis=1) + error)
        return Best(tuple(np.concatenate(rows, axis=1)), missed)

    def scores(self, probes: Vectors, rows: Keys | None) -> Vectors:
        parts = [self._rows_of(number) for number in range(len(self._blocks))] if rows is None else [self.vectors(rows)]
        return np.concatenate([np.empty((len(probes), 0), np.float32), *(probes @ part.T for part in parts)], axis=1)

    def vectors(self, rows: Keys) -> Vectors:
        out = np.empty((len(rows), self._dimension), np.float32)
        for number in np.unique(rows // BLOCK_ROWS):
            here = rows // BLOCK_ROWS == number
            out[here] = self._blocks[number][rows[here] % BLOCK_ROWS]
        return out

    def _rows_of(self, number: int) -> Vectors:
        return self._blocks[number][: self._used - number * BLOCK_ROWS]


@cache
def _resources() -> Any:
    """Scratch memory and streams on the GPU, shared by all indexes."""
    return faiss.StandardGpuResources()


def on_gpu(dimension: int, gpu: int = 0) -> Any:
    """An empty FAISS index of inner products in float16 on a GPU, as CUDA numbers them."""
    options = faiss.GpuIndexFlatConfig()
    options.useFloat16 = True
    options.device = gpu
    return faiss.GpuIndexFlat(_resources(), dimension, faiss.METRIC_INNER_PRODUCT, options)
