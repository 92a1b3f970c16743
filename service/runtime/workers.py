"""Runs blocking work off the event loop: so many threads, a bounded queue before them, tenants served in turn."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from service import metrics
from service.errors import Overloaded, RateLimited
from service.runtime.caller import Caller, current
from service.runtime.fair_queue import FairQueue

T = TypeVar("T")

# Weight of the newest piece of work in the running mean of how long one takes.
_NEWEST = 0.1


@dataclass(eq=False)
class _Job:
    """The pieces of work of one request. ``begun`` once the first has a thread; before that it can be refused."""

    caller: Caller
    begun: bool = False
    refused: bool = False


@dataclass(eq=False)
class _Ticket:
    """One piece of work in the queue."""

    job: _Job
    called: anyio.Event = field(default_factory=anyio.Event)


class Workers:
    """A bounded set of threads for one event loop. When too much work waits, more is refused at once, not queued.

    A full queue belongs to all tenants alike: work of one who has fewer places takes the last place of the one who
    has most, if that work has not begun.
    """

    def __init__(self, threads: int, max_waiting: int, name: str = "work", max_per_tenant: int = 0) -> None:
        """
        Args:
            name: in metrics.
            max_per_tenant: the most pieces of work that one tenant may have inside, running and waiting; 0: no limit.
        """
        self.threads = threads
        self._max_waiting, self._name, self._max_per_tenant = max_waiting, name, max_per_tenant
        self._queue: FairQueue[_Ticket] = FairQueue()
        self._inside: dict[str, int] = {}
        self._running = 0
        self._mean_s = 0.0
        self._limiter: anyio.CapacityLimiter | None = None
        self._wait_seconds = metrics.QUEUE_WAIT_SECONDS.labels(name)
        self._length = metrics.QUEUE_LENGTH.labels(name)

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """``work(*args)`` in a thread.

        Raises: as ``map``.
        """
        [result] = await self.map(work, [args])
        return result

    async def map(self, work: Callable[..., T], calls: Sequence[tuple[Any, ...]]) -> list[T]:
        """``work(*call)`` for each call, side by side where threads are free; results in order.

        All are waited for; then the first error, in the order of the calls, is raised.

        Raises:
            Overloaded: there is no room for all of them, now or by the caller's deadline; none was started.
            RateLimited: the caller's tenant has as many as it may have.
            DeadlineExceeded: the deadline passed while they waited.
        """
        caller = current()
        job = _Job(caller)
        self._admit(job, len(calls))
        results: dict[int, T] = {}
        errors: dict[int, Exception] = {}

        async def one(index: int, call: tuple[Any, ...]) -> None:
            try:
                results[index] = await self._one(job, lambda: work(*call))
            except Exception as error:
                errors[index] = error

        self._inside[caller.tenant] = self._inside.get(caller.tenant, 0) + len(calls)
        try:
            if len(calls) == 1:
                await one(0, calls[0])
            else:
                async with anyio.create_task_group() as group:
                    for index, call in enumerate(calls):
                        group.start_soon(one, index, call)
        finally:
            self._inside[caller.tenant] -= len(calls)
            if not self._inside[caller.tenant]:
                del self._inside[caller.tenant]
        if errors:
            raise errors[min(errors)]
        return [results[index] for index in range(len(calls))]

    def refuse_if_full(self, pieces: int = 1) -> None:
        """Raises what ``map`` would raise now for so many pieces of work; for callers who have not sent theirs yet."""
        self._admit(_Job(current()), pieces, only_ask=True)

    @property
    def waiting(self) -> int:
        """Pieces of work without a thread."""
        return len(self._queue)

    def _admit(self, job: _Job, pieces: int, only_ask: bool = False) -> None:
        tenant = job.caller.tenant
        mine, inside = self._inside.get(tenant, 0), sum(self._inside.values())
        if self._max_per_tenant and mine + pieces > self._max_per_tenant:
            raise RateLimited(
                f"{mine} photos of this caller are in work or wait; at most {self._max_per_tenant} may.",
                {"max_per_client": self._max_per_tenant, "retry_after_s": self._retry_after(mine)},
            )
        ahead = len(self._queue)
        in_time = time.monotonic() + self._mean_s * (ahead + pieces) / self.threads <= job.caller.deadline
        if inside + pieces <= self.threads + self._max_waiting and (in_time or not ahead):
            return
        excess = inside + pieces - self.threads - self._max_waiting
        if in_time and self._make_room(tenant, mine + pieces, excess, only_ask):
            return
        raise Overloaded(
            f"All {self.threads} workers are busy and {ahead} photos wait; try again later.",
            {"retry_after_s": self._retry_after(ahead)},
        )

    def _make_room(self, tenant: str, wanted: int, excess: int, only_ask: bool) -> bool:
        """Refuse the youngest work of the tenant of whom most waits, if that is more than ``tenant`` would have."""
        largest, length = self._queue.longest()
        if largest == tenant or length - excess < wanted:
            return False
        last = [ticket for ticket in reversed(self._queue.waiting(largest)) if not ticket.job.begun]
        jobs = list(dict.fromkeys(ticket.job for ticket in last))
        chosen: list[_Ticket] = []
        for job in jobs:
            if len(chosen) >= excess:
                break
            chosen += [ticket for ticket in last if ticket.job is job]
        if len(chosen) < excess:
            return False
        if not only_ask:
            for ticket in chosen:
                ticket.job.refused = True
                self._queue.remove(largest, ticket)
                ticket.called.set()
        return True

    def _retry_after(self, ahead: int) -> int:
        """Whole seconds until so much work is done, as fast as work was done of late."""
        return max(1, math.ceil(ahead * self._mean_s / self.threads))

    async def _one(self, job: _Job, work: Callable[[], T]) -> T:
        start = time.perf_counter()
        if self._running < self.threads:
            self._running += 1
        else:
            await self._wait(job)
        job.begun = True
        self._wait_seconds.observe(time.perf_counter() - start)
        if self._limiter is None:  # belongs to the event loop that first runs it
            self._limiter = anyio.CapacityLimiter(self.threads)
        try:
            return await anyio.to_thread.run_sync(self._timed, job.caller, work, limiter=self._limiter)
        finally:
            self._next()

    async def _wait(self, job: _Job) -> None:
        ticket = _Ticket(job)
        tenant = job.caller.tenant
        self._queue.push(tenant, ticket)
        self._length.set(len(self._queue))
        try:
            with anyio.move_on_after(job.caller.deadline - time.monotonic()):
                await ticket.called.wait()
        except BaseException:
            # Cancelled: the place in the queue is free again, or the thread, if it was given just now.
            if not self._queue.remove(tenant, ticket) and not job.refused:
                self._next()
            raise
        finally:
            self._length.set(len(self._queue))
        if job.refused:
            raise Overloaded(
                "The queue is full, and others have fewer places in it than this caller; try again later.",
                {"retry_after_s": self._retry_after(len(self._queue))},
            )
        if self._queue.remove(tenant, ticket):
            raise job.caller.too_late()

    def _timed(self, caller: Caller, work: Callable[[], T]) -> T:
        caller.check()
        start = time.perf_counter()
        try:
            return work()
        finally:
            taken = time.perf_counter() - start
            self._mean_s += (taken - self._mean_s) * (_NEWEST if self._mean_s else 1.0)

    def _next(self) -> None:
        """A thread is free: whose turn is it?"""
        ticket = self._queue.pop()
        self._length.set(len(self._queue))
        if ticket is None:
            self._running -= 1
        else:
            ticket.called.set()
