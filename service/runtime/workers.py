"""Runs blocking work off the event loop: so many threads, a bounded queue before them, tenants served in turn."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import anyio

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
    """One piece of work: in the queue, then in a thread, then done."""

    job: _Job
    work: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    # What runs in a thread sees the caller and the trace of the task that asked.
    context: Context = field(default_factory=copy_context)
    since: float = field(default_factory=time.perf_counter)
    done: anyio.Event = field(default_factory=anyio.Event)
    result: Any = None
    error: BaseException | None = None


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
        # Of all that threads and the event loop share.
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(threads, name)
        self._wait_seconds = metrics.QUEUE_WAIT_SECONDS.labels(name)
        self._length = metrics.QUEUE_LENGTH.labels(name)

    @property
    def busy(self) -> bool:
        """Whether anything is being worked on."""
        return self._running > 0

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
        caller, loop = current(), asyncio.get_running_loop()
        job = _Job(caller)
        with self._lock:
            self._admit(job, len(calls))
        self._inside[caller.tenant] = self._inside.get(caller.tenant, 0) + len(calls)
        tickets = [_Ticket(job, partial(work, *call), loop) for call in calls]
        try:
            for ticket in tickets:
                self._enter(ticket)
            await self._all_finished(tickets)
        finally:
            self._inside[caller.tenant] -= len(calls)
            if not self._inside[caller.tenant]:
                del self._inside[caller.tenant]
        for ticket in tickets:
            if ticket.error is not None:
                raise ticket.error
        return [ticket.result for ticket in tickets]

    def refuse_if_full(self, pieces: int = 1) -> None:
        """Raises what ``map`` would raise now for so many pieces of work; for callers who have not sent theirs yet."""
        with self._lock:
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
                ticket.done.set()
        return True

    def _retry_after(self, ahead: int) -> int:
        """Whole seconds until so much work is done, as fast as work was done of late."""
        return max(1, math.ceil(ahead * self._mean_s / self.threads))

    def _enter(self, ticket: _Ticket) -> None:
        """Give a piece of work a free thread, or a place in the queue."""
        with self._lock:
            if self._running >= self.threads:
                self._queue.push(ticket.job.caller.tenant, ticket)
                self._length.set(len(self._queue))
                return
            self._running += 1
            ticket.job.begun = True
        self._pool.submit(self._serve, ticket)

    async def _finished(self, ticket: _Ticket) -> None:
        """Wait until a piece of work is done, refused, or out of time in the queue; an error is left in it."""
        caller = ticket.job.caller
        with anyio.move_on_after(caller.deadline - time.monotonic()):
            await ticket.done.wait()
        if ticket.done.is_set():
            if ticket.job.refused:
                ticket.error = Overloaded(
                    "The queue is full, and others have fewer places in it than this caller; try again later.",
                    {"retry_after_s": self._retry_after(len(self._queue))},
                )
        elif self._drop(ticket):
            ticket.error = caller.too_late()
            # Whoever is cancelled while the others are waited for waits for all that left the queue.
            ticket.done.set()
        else:
            await ticket.done.wait()

    async def _all_finished(self, tickets: Sequence[_Ticket]) -> None:
        """Wait for each. Cancelled: what waits leaves the queue, and what a thread is at is still waited for."""
        try:
            for ticket in tickets:
                await self._finished(ticket)
        except BaseException:
            begun = [ticket for ticket in tickets if not self._drop(ticket)]
            with anyio.CancelScope(shield=True):
                for ticket in begun:
                    await ticket.done.wait()
            raise

    def _drop(self, ticket: _Ticket) -> bool:
        """Take a piece of work out of the queue; false if it is not there."""
        with self._lock:
            dropped = self._queue.remove(ticket.job.caller.tenant, ticket)
            self._length.set(len(self._queue))
        return dropped

    def _serve(self, ticket: _Ticket | None) -> None:
        """In a thread: one piece of work after the other, without a way through the event loop between them."""
        while ticket is not None:
            self._wait_seconds.observe(time.perf_counter() - ticket.since)
            try:
                ticket.result = ticket.context.run(self._timed, ticket)
            except BaseException as error:
                ticket.error = error
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                ticket.loop.call_soon_threadsafe(ticket.done.set)
            ticket = self._next()

    def _timed(self, ticket: _Ticket) -> Any:
        ticket.job.caller.check()
        start = time.perf_counter()
        try:
            return ticket.work()
        finally:
            taken = time.perf_counter() - start
            with self._lock:
                self._mean_s += (taken - self._mean_s) * (_NEWEST if self._mean_s else 1.0)

    def _next(self) -> _Ticket | None:
        """Whose turn is it? None ends the thread's work."""
        with self._lock:
            ticket = self._queue.pop()
            self._length.set(len(self._queue))
            if ticket is None:
                self._running -= 1
            else:
                ticket.job.begun = True
            return ticket
