"""Concurrent probes of one segment share its scans."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.runtime.batcher import Batcher, BatchLimits

LARGEST_BATCH = 256
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Probe:
    """One question to a segment.

    Attributes:
        embedding: float32 (d,), finite, unit length.
        top_k: the most persons wanted.
        persons: int64 (n,), the persons to search among; None for all.
    """

    embedding: NDArray[np.float32]
    top_k: int
    persons: NDArray[np.int64] | None = None

    def group(self) -> Hashable:
        """What must be equal for two probes to be answered by one scan.

        Raises:
            ValueError: for a probe that would spoil the scan for the others.
        """
        if self.embedding.ndim != 1 or not np.isfinite(self.embedding).all() or self.top_k < 1:
            raise ValueError("A probe is one finite vector, with a top_k of at least 1.")
        return len(self.embedding), None if self.persons is None else self.persons.tobytes()


class Searchable(Protocol[T]):
    """What ``shared_scans`` needs of a ``Segment`` or a ``NamedSegment``: for each probe what it finds, best first."""

    def search(
        self, probes: NDArray[np.float32], top_k: int, persons: NDArray[np.int64] | None
    ) -> Sequence[list[T]]: ...


def shared_scans(segment: Searchable[T], most: int = LARGEST_BATCH) -> Batcher[Probe, list[T]]:
    """A batcher over one segment: scans for the largest ``top_k`` that waits and cuts each answer to its own.

    One scan at a time: it uses all cores, and the next one is the larger for having waited.
    """

    def scan(probes: list[Probe]) -> list[list[T]]:
        embeddings = np.stack([probe.embedding for probe in probes])
        found = segment.search(embeddings, max(probe.top_k for probe in probes), probes[0].persons)
        if len(found) != len(probes):
            raise RuntimeError(f"The segment gave {len(found)} answers to {len(probes)} probes.")
        return [hits[: probe.top_k] for hits, probe in zip(found, probes, strict=True)]

    return Batcher(scan, BatchLimits(most), name="search", group=Probe.group)
