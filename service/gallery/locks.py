"""A read-write lock that serves in order of arrival."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class ReadWriteLock:
    """Many readers or one writer. Not reentrant: a thread that holds it must not ask again, not even to read.

    First come, first served: readers that come after a waiting writer wait for it, and readers that waited together
    go in together. So neither writers nor readers are starved.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._queue: deque[object] = deque()
        self._readers = 0
        self._writing = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold the lock together with other readers."""
        with self._changed:
            self._wait_turn(alone=False)
            self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lock alone."""
        with self._changed:
            self._wait_turn(alone=True)
            self._writing = True
        try:
            yield
        finally:
            with self._changed:
                self._writing = False
                self._changed.notify_all()

    def _wait_turn(self, alone: bool) -> None:
        ticket = object()
        self._queue.append(ticket)
        try:
            while self._queue[0] is not ticket or self._writing or (alone and self._readers):
                self._changed.wait()
        finally:
            # Also when interrupted (Ctrl-C): a ticket that nobody waits with would block everyone behind it.
            self._queue.remove(ticket)
            self._changed.notify_all()
