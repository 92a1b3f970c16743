"""A queue that serves tenants in turn: whoever sends a thousand requests waits behind their own."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """First come, first served within a tenant, one of each tenant in turn. For use under its owner's lock."""

    def __init__(self) -> None:
        # Tenants in the order of their turns; one without a line is not there.
        self._lines: dict[str, deque[T]] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        """All that wait, tenant by tenant."""
        return (item for line in self._lines.values() for item in line)

    def push(self, tenant: str, item: T) -> None:
        self._lines.setdefault(tenant, deque()).append(item)
        self._length += 1

    def pop(self) -> T | None:
        """Take whose turn it is; the tenant's next turn comes after those of all others."""
        if not self._lines:
            return None
        tenant, line = next(iter(self._lines.items()))
        item = line.popleft()
        del self._lines[tenant]
        if line:
            self._lines[tenant] = line
        self._length -= 1
        return item

    def take(self, wanted: Callable[[T], bool]) -> list[T]:
        """Take all that are ``wanted``, which is asked of each in turn; the others keep their places."""
        taken: list[T] = []
        passed: list[tuple[str, T]] = []
        served: dict[str, int] = {}
        while self._lines:
            tenant = next(iter(self._lines))
            item = self.pop()
            assert item is not None
            if wanted(item):
                taken.append(item)
                served[tenant] = len(taken)
            else:
                passed.append((tenant, item))
        # Whoever was served comes after whoever was not, and later the later that was.
        for tenant, item in sorted(passed, key=lambda entry: served.get(entry[0], 0)):
            self.push(tenant, item)
        return taken

    def remove(self, tenant: str, item: T) -> bool:
        """Take ``item`` out, wherever it is; false if it is not there."""
        line = self._lines.get(tenant)
        if line is None or item not in line:
            return False
        line.remove(item)
        if not line:
            del self._lines[tenant]
        self._length -= 1
        return True

    def longest(self) -> tuple[str, int]:
        """The tenant of whom most wait, and how many."""
        return max(((tenant, len(line)) for tenant, line in self._lines.items()), key=lambda t: t[1], default=("", 0))

    def waiting(self, tenant: str) -> list[T]:
        """Of one tenant, in order."""
        return list(self._lines.get(tenant, ()))
