"""Questions of many callers answered together: what waits while a batch runs goes into the next one.

One batcher serves detection, embedding and search. It has no thread of its own, and no timer unless it is given a
delay: a caller who finds a free place runs their question at once, in their own thread; where all places are taken
callers queue, and whoever's turn it is runs the next batch for all that can share it. So where a batch gains nothing,
on a CPU with a place for each core, there is no batch, no wait, and no change of threads.
"""

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from service import metrics
from service.errors import LikenessError, Overloaded
from service.runtime.caller import Caller, current
from service.runtime.fair_queue import FairQueue

Q = TypeVar("Q")
A = TypeVar("A")


@dataclass(frozen=True)
class BatchLimits:
    """How a batcher runs.

    Attributes:
        most: the largest batch, counted by ``size``; one larger question runs alone.
        parallel: batches that may run at once.
        delay_s: how long a batch that is not full waits for more questions. 0 for none: under load batches fill
            while others run, and without load nobody comes.
        waiting: the most questions that wait; more are refused.
    """

    most: int = 256
    parallel: int = 1
    delay_s: float = 0.0
    waiting: int = 4096

    def __post_init__(self) -> None:
        if self.most < 1 or self.parallel < 1 or self.waiting < 0 or not 0 <= self.delay_s < 1:
            raise ValueError(f"{self}: most and parallel are at least 1, waiting 0, and delay_s is below a second.")


@dataclass(eq=False)
class _Waiting(Generic[Q, A]):
    question: Q
    group: Hashable
    size: int
    caller: Caller
    since: float = field(default_factory=time.perf_counter)
    woken: threading.Event = field(default_factory=threading.Event)
    leads: bool = False
    answers: tuple[A, ...] = ()
    error: BaseException | None = None

    def result(self) -> A:
        if self.error is not None:
            raise self.error
        return self.answers[0]


class Batcher(Generic[Q, A]):
    """``ask`` blocks until a batch with the question has run. Thread-safe; tenants are served in turn."""

    def __init__(
        self,
        run: Callable[[list[Q]], Sequence[A]],
        limits: BatchLimits,
        *,
        name: str = "batch",
        group: Callable[[Q], Hashable] = lambda _: None,
        size: Callable[[Q], int] = lambda _: 1,
    ) -> None:
        """
        Args:
            run: answers a list of questions, one answer each, in their order. If it raises, every question of the
                batch is tried again alone, so that one bad question, or a batch that is too large for the device,
                spoils nothing for the others.
            name: in metrics and messages.
            group: only questions whose group is equal (a shape, a filter) run together. What it raises goes to the
                caller with that question alone.
            size: what a question counts towards ``limits.most``.
        """
        self.limits = limits
        self._run, self._name, self._group, self._size = run, name, group, size
        self._lock = threading.Lock()
        self._more = threading.Condition(self._lock)
        self._queue: FairQueue[_Waiting[Q, A]] = FairQueue()
        self._running = 0
        self._waits = metrics.BATCH_WAIT_SECONDS.labels(name)
        self._runs = metrics.BATCH_RUN_SECONDS.labels(name)
        self._sizes = metrics.BATCH_SIZE.labels(name)

    def ask(self, question: Q) -> A:
        """The answer to ``question``.

        Raises:
            CallerLeft, DeadlineExceeded: of the caller this thread works for, before the question has cost anything.
            Overloaded: ``limits.waiting`` questions wait already.
            Exception: whatever ``run`` raised for this question.
        """
        caller = current()
        caller.check()
        waiting: _Waiting[Q, A] = _Waiting(question, self._group(question), self._size(question), caller)
        with self._lock:
            if self._running < self.limits.parallel:
                self._running += 1
                waiting.leads = True
            elif len(self._queue) >= self.limits.waiting:
                raise Overloaded(f"{len(self._queue)} questions wait for {self._name}.", {"retry_after_s": 1})
            else:
                self._queue.push(caller.tenant, waiting)
                self._more.notify_all()
        if not waiting.leads:
            self._follow(waiting)
        if waiting.leads:
            self._lead(waiting)
        return waiting.result()

    def _follow(self, waiting: _Waiting[Q, A]) -> None:
        """Wait until the question is answered, its deadline has passed, or it is its turn to lead."""
        patience = max(waiting.caller.deadline - time.monotonic(), 0.0)
        try:
            if waiting.woken.wait(min(patience, threading.TIMEOUT_MAX)):
                return
            with self._lock:
                dropped = self._queue.remove(waiting.caller.tenant, waiting)
            if dropped:
                waiting.error = waiting.caller.too_late()
            else:
                waiting.woken.wait()  # its batch has begun
        except BaseException:
            # Ctrl-C: a leader that left without leading would leave everyone behind it waiting for ever.
            with self._lock:
                self._queue.remove(waiting.caller.tenant, waiting)
                if waiting.leads:
                    self._hand_on()
            raise

    def _lead(self, leader: _Waiting[Q, A]) -> None:
        batch = [leader]
        try:
            batch += self._collect(leader)
            self._answer(batch)
        except BaseException as error:
            for waiting in batch:
                if not waiting.answers:
                    waiting.error = waiting.error or error
            if not isinstance(error, Exception):
                raise
        finally:
            with self._lock:
                self._hand_on()
            for waiting in batch:
                waiting.woken.set()

    def _collect(self, leader: _Waiting[Q, A]) -> list[_Waiting[Q, A]]:
        """Those that can share the leader's batch, in the order of their turns; whoever cannot wait is dropped."""
        room = self.limits.most - leader.size
        taken: list[_Waiting[Q, A]] = []

        def fits(waiting: _Waiting[Q, A]) -> bool:
            nonlocal room
            if self._gone(waiting):
                return True
            if waiting.group != leader.group or waiting.size > room:
                return False
            room -= waiting.size
            taken.append(waiting)
            return True

        with self._lock:
            if self.limits.delay_s:
                self._wait_for_more(leader)
            if len(self._queue):
                self._queue.take(fits)
        now = time.perf_counter()
        for waiting in (leader, *taken):
            self._waits.observe(now - waiting.since)
        return taken

    def _wait_for_more(self, leader: _Waiting[Q, A]) -> None:
        until = min(time.monotonic() + self.limits.delay_s, leader.caller.deadline)
        while leader.size + sum(w.size for w in self._queue if w.group == leader.group) < self.limits.most:
            patience = until - time.monotonic()
            if patience <= 0 or not self._more.wait(patience):
                return

    def _answer(self, batch: list[_Waiting[Q, A]]) -> None:
        try:
            answers = self._timed(batch)
        except Exception as error:
            if len(batch) == 1:
                batch[0].error = error
                return
            for waiting in batch:
                try:
                    waiting.answers = (self._timed([waiting])[0],)
                except Exception as own:
                    waiting.error = own
            return
        for waiting, answer in zip(batch, answers, strict=True):
            waiting.answers = (answer,)

    def _timed(self, batch: list[_Waiting[Q, A]]) -> Sequence[A]:
        start = time.perf_counter()
        answers = self._run([waiting.question for waiting in batch])
        self._runs.observe(time.perf_counter() - start)
        self._sizes.observe(sum(waiting.size for waiting in batch))
        if len(answers) != len(batch):
            raise RuntimeError(f"{self._name} gave {len(answers)} answers to {len(batch)} questions.")
        return answers

    def _hand_on(self) -> None:
        """The leader's place goes to whoever's turn it is and still waits."""
        while (following := self._queue.pop()) is not None:
            if not self._gone(following):
                following.leads = True
                following.woken.set()
                return
        self._running -= 1

    def _gone(self, waiting: _Waiting[Q, A]) -> bool:
        """Whether the caller has left or is out of time; then it is woken with that."""
        try:
            waiting.caller.check()
        except LikenessError as error:
            waiting.error = error
            waiting.woken.set()
            return True
        return False
