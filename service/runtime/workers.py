"""Runs blocking work off the event loop: one thread a core, a bounded number of callers waiting."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from service.errors import Overloaded

T = TypeVar("T")


class Workers:
    """A bounded set of threads. When too much work waits, more is refused at once instead of queued."""

    def __init__(self, threads: int, max_waiting: int) -> None:
        self.threads = threads
        self._max_waiting = max_waiting
        self._inside = 0
        self._limiter: anyio.CapacityLimiter | None = None

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """``work(*args)`` in a thread.

        Raises:
            Overloaded: ``max_waiting`` pieces of work wait already.
        """
        [result] = await self.map(work, [args])
        return result

    async def map(self, work: Callable[..., T], calls: Sequence[tuple[Any, ...]]) -> list[T]:
        """``work(*call)`` for each call, side by side where threads are free; results in order.

        All are waited for; then the first error, in the order of the calls, is raised.

        Raises:
            Overloaded: there is no room for all of them; none was started.
        """
        if self._inside + len(calls) > self.threads + self._max_waiting:
            raise Overloaded(
                f"All {self.threads} workers are busy and {self._inside - self.threads} photos wait; try again later.",
                {"retry_after_s": 1},
            )
        if self._limiter is None:  # belongs to the event loop that first runs it
            self._limiter = anyio.CapacityLimiter(self.threads)
        limiter = self._limiter
        results: dict[int, T] = {}
        errors: dict[int, Exception] = {}

        async def one(index: int, call: tuple[Any, ...]) -> None:
            try:
                results[index] = await anyio.to_thread.run_sync(lambda: work(*call), limiter=limiter)
            except Exception as error:
                errors[index] = error

        self._inside += len(calls)
        try:
            async with anyio.create_task_group() as group:
                for index, call in enumerate(calls):
                    group.start_soon(one, index, call)
        finally:
            self._inside -= len(calls)
        if errors:
            raise errors[min(errors)]
        return [results[index] for index in range(len(calls))]
