"""Runs blocking work off the event loop: one thread a core, a bounded number of callers waiting."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import anyio
import anyio.to_thread

from service.errors import Overloaded

T = TypeVar("T")


class Workers:
    """A bounded set of threads. When too many callers wait, the next is refused at once instead of queued."""

    def __init__(self, threads: int, max_waiting: int) -> None:
        self._threads = threads
        self._max_waiting = max_waiting
        self._inside = 0
        self._limiter: anyio.CapacityLimiter | None = None

    async def run(self, work: Callable[..., T], *args: object) -> T:
        """``work(*args)`` in a thread.

        Raises:
            Overloaded: ``max_waiting`` callers wait already.
        """
        if self._limiter is None:  # belongs to the event loop that first runs it
            self._limiter = anyio.CapacityLimiter(self._threads)
        if self._inside >= self._threads + self._max_waiting:
            raise Overloaded(
                f"All {self._threads} workers are busy and {self._max_waiting} requests wait; try again later.",
                {"retry_after_s": 1},
            )
        self._inside += 1
        try:
            return await anyio.to_thread.run_sync(partial(work, *args), limiter=self._limiter)
        finally:
            self._inside -= 1
