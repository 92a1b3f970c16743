"""The batches of a training: which rows in which order, which of them mirrored, read ahead by threads.

Everything random here follows from (seed, epoch) alone, so that a training that resumes at a step sees the same
batches, whatever the number of workers.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.config import Data
from models.data import Faces


@dataclass(frozen=True, eq=False)
class Batch:
    """``images`` uint8 (B, s, s, 3) RGB, mirrored where chance has it; ``labels`` (B,) int64."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def epoch_order(labels: NDArray[np.int64], instances: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The rows of an epoch in the order in which batches take them.

    With ``instances`` K = 1 every row once. With more, rows of one identity stand in groups of K, as losses over pairs
    and triplets need them: every row of an identity once, the last group being filled up with others of its rows;
    identities with a single row are left out.
    """
    rng = np.random.default_rng((seed, epoch))
    if instances == 1:
        return rng.permutation(len(labels))
    by_identity = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])
    groups = [
        np.resize(rng.permutation(rows), (-(-len(rows) // instances), instances))
        for rows in by_identity
        if len(rows) > 1
    ]
    if not groups:
        raise ValueError(f"no identity has two photos, of which groups of {instances} could be made")
    return rng.permutation(np.concatenate(groups)).ravel()


class Batches:
    """The batches of a training, from any step on.

    Attributes:
        per_epoch: batches in an epoch; what is left over at its end is not used.
    """

    def __init__(self, faces: Faces, data: Data, size: int, seed: int, rank: int = 0, processes: int = 1) -> None:
        """
        Args:
            data: has ``instances``, and ``workers`` that read ahead.
            size: of a batch, of all processes together.
            rank, processes: of each batch, this process takes every ``processes``-th photo from ``rank`` on.

        Raises:
            ValueError: the data do not fill a batch, or the batch cannot be shared out.
        """
        if size % (data.instances * processes):
            raise ValueError(f"a batch of {size} is no multiple of {data.instances} photos × {processes} processes")
        self._faces, self._size, self._instances, self._seed = faces, size, data.instances, seed
        self._workers, self._rank, self._processes = data.workers, rank, processes
        self.per_epoch = len(epoch_order(faces.labels, data.instances, seed, 0)) // size
        if not self.per_epoch:
            raise ValueError(f"{len(faces)} photos do not fill a batch of {size}")

    def following(self, step: int) -> Iterator[Batch]:
        """The batches of step ``step`` and those after, without end."""
        with ThreadPoolExecutor(self._workers, thread_name_prefix="batches") as pool:
            ahead: deque[Future[Batch]] = deque()
            try:
                for rows, mirrored in self._plan(step):
                    ahead.append(pool.submit(self._read, rows, mirrored))
                    if len(ahead) > self._workers:
                        yield ahead.popleft().result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _plan(self, step: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        while True:
            epoch, first = divmod(step, self.per_epoch)
            order = epoch_order(self._faces.labels, self._instances, self._seed, epoch)
            mirrored = np.random.default_rng((self._seed, epoch, 1)).random(len(order)) < 0.5
            for start in range(first * self._size, self.per_epoch * self._size, self._size):
                own = slice(start + self._rank, start + self._size, self._processes)
                yield order[own], mirrored[own]
                step += 1

    def _read(self, rows: NDArray[np.int64], mirrored: NDArray[np.bool_]) -> Batch:
        images = np.stack([self._faces.read(int(row)) for row in rows])
        images[mirrored] = images[mirrored, :, ::-1]
        return Batch(images, self._faces.labels[rows])
