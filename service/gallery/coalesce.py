"""Concurrent questions answered together: those that wait while a scan runs share the next one."""

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.gallery.segment import Hit

Q = TypeVar("Q")
A = TypeVar("A")

LARGEST_BATCH = 256


@dataclass(eq=False)
class _Waiting(Generic[Q, A]):
    question: Q
    group: Hashable
    woken: threading.Event = field(default_factory=threading.Event)
    leads: bool = False
    answers: tuple[A, ...] = ()
    error: BaseException | None = None

    def result(self) -> A:
        if self.error is not None:
            raise self.error
        return self.answers[0]


class Coalescer(Generic[Q, A]):
    """Runs one scan at a time; a question that finds none running is answered at once. Thread-safe.

    There is no timer and no thread of its own: the caller whose question has waited longest runs the scan, for
    itself and for all that wait with a question of the same group.
    """

    def __init__(
        self,
        scan: Callable[[list[Q]], Sequence[A]],
        group: Callable[[Q], Hashable] = lambda _: None,
        limit: int = LARGEST_BATCH,
    ) -> None:
        """
        Args:
            scan: answers a list of questions, one answer each, in their order. Never called twice at once.
            group: only questions whose group is equal are given to ``scan`` together. What it raises goes to the
                caller with that question alone.
            limit: the most questions in one scan.
        """
        if limit < 1:
            raise ValueError(f"A scan cannot be limited to {limit} questions; the limit is at least 1.")
        self._scan, self._group, self._limit = scan, group, limit
        self._lock = threading.Lock()
        self._queue: list[_Waiting[Q, A]] = []
        self._scanning = False

    def ask(self, question: Q) -> A:
        """The answer to ``question``; blocks until it is there.

        Raises:
            Exception: whatever the scan raised that this question was part of, to every caller of that scan.
        """
        waiting: _Waiting[Q, A] = _Waiting(question, self._group(question))
        with self._lock:
            self._queue.append(waiting)
            if not self._scanning:
                self._scanning = waiting.leads = True
        if not waiting.leads:
            self._follow(waiting)
        if waiting.leads:
            self._lead(waiting)
        return waiting.result()

    def _follow(self, waiting: _Waiting[Q, A]) -> None:
        try:
            waiting.woken.wait()
        except BaseException:
            # Ctrl-C: a leader that left without leading would leave everyone behind it waiting for ever.
            with self._lock:
                if waiting in self._queue:
                    self._queue.remove(waiting)
                if waiting.leads:
                    self._promote()
            raise

    def _lead(self, leader: _Waiting[Q, A]) -> None:
        batch = self._take(leader.group)
        try:
            answers = self._scan([waiting.question for waiting in batch])
            if len(answers) != len(batch):
                raise RuntimeError(f"The scan gave {len(answers)} answers to {len(batch)} questions.")
            for waiting, answer in zip(batch, answers, strict=True):
                waiting.answers = (answer,)
        except BaseException as error:
            for waiting in batch:
                waiting.error = error
        finally:
            with self._lock:
                self._promote()
            for waiting in batch:
                waiting.woken.set()

    def _take(self, group: Hashable) -> list[_Waiting[Q, A]]:
        """The oldest questions of the group, the leader's among them: it is the oldest of all."""
        with self._lock:
            batch = [waiting for waiting in self._queue if waiting.group == group][: self._limit]
            taken = set(map(id, batch))
            self._queue = [waiting for waiting in self._queue if id(waiting) not in taken]
        return batch

    def _promote(self) -> None:
        self._scanning = bool(self._queue)
        if self._queue:
            self._queue[0].leads = True
            self._queue[0].woken.set()


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


class Searchable(Protocol):
    """What ``coalesced`` needs of a ``Segment``."""

    def search(self, probes: NDArray[np.float32], top_k: int, persons: NDArray[np.int64] | None) -> list[list[Hit]]: ...


def coalesced(segment: Searchable, limit: int = LARGEST_BATCH) -> Coalescer[Probe, list[Hit]]:
    """A coalescer over one segment: scans for the largest ``top_k`` that waits and cuts each answer to its own."""

    def scan(probes: list[Probe]) -> list[list[Hit]]:
        embeddings = np.stack([probe.embedding for probe in probes])
        found = segment.search(embeddings, max(probe.top_k for probe in probes), probes[0].persons)
        if len(found) != len(probes):
            raise RuntimeError(f"The segment gave {len(found)} answers to {len(probes)} probes.")
        return [hits[: probe.top_k] for hits, probe in zip(found, probes, strict=True)]

    return Coalescer(scan, Probe.group, limit)
