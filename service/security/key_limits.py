"""How often, and how many requests at a time, each access key may ask.

A key may use up a minute's requests at once, and then one at a time. A request that is refused for the number that is
inside is not counted for the rate.
"""

import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from service.errors import RateLimited
from service.security.access_keys import AccessKey


class KeyLimits(Protocol):
    """Counts requests; where the counts are kept, an implementation knows."""

    def admitted(self, key: AccessKey) -> AbstractAsyncContextManager[None]:
        """Count a request until the end of the block. Raises RateLimited; Unavailable if there is no telling."""

    def close(self) -> None:
        """Leave what the counts are kept in."""


@dataclass
class _Use:
    tokens: float
    at: float
    inside: int = 0


class LocalLimits:
    """Counts for one event loop, in memory."""

    def __init__(self) -> None:
        self._uses: dict[str, _Use] = {}

    def close(self) -> None:
        """Nothing to leave."""

    @asynccontextmanager
    async def admitted(self, key: AccessKey) -> AsyncIterator[None]:
        """Count a request until the end of the block. Raises RateLimited."""
        use = self._uses.setdefault(key.id, _Use(key.rate_per_minute or 0, time.monotonic()))
        if key.concurrency is not None and use.inside >= key.concurrency:
            raise too_many(key.concurrency)
        if key.rate_per_minute is not None:
            self._take(key.rate_per_minute, use)
        use.inside += 1
        try:
            yield
        finally:
            use.inside -= 1

    @staticmethod
    def _take(per_minute: int, use: _Use) -> None:
        now = time.monotonic()
        use.tokens = min(per_minute, use.tokens + (now - use.at) * per_minute / 60)
        use.at = now
        if use.tokens < 1:
            raise too_often(per_minute, use.tokens)
        use.tokens -= 1


def too_many(concurrency: int) -> RateLimited:
    """The refusal of a key that has all its requests inside."""
    return RateLimited(
        f"The access key may have {concurrency} requests at a time. Wait for their answers.", {"retry_after_s": 1}
    )


def too_often(per_minute: int, tokens: float) -> RateLimited:
    """The refusal of a key whose requests are used up.

    Args:
        tokens: what it has, less than one request.
    """
    wait = (1 - tokens) * 60 / per_minute
    return RateLimited(
        f"The access key may ask {per_minute} times a minute. Try again later.", {"retry_after_s": int(wait) + 1}
    )
