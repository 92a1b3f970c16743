"""How often, and how many requests at a time, each access key may ask."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.errors import RateLimited
from service.security.access_keys import AccessKey


@dataclass
class _Use:
    tokens: float
    at: float
    inside: int = 0


class KeyLimits:
    """Counts for one event loop. A key may use up a minute's requests at once, and then one at a time."""

    def __init__(self) -> None:
        self._uses: dict[str, _Use] = {}

    @contextmanager
    def admitted(self, key: AccessKey) -> Iterator[None]:
        """Count a request until the end of the block. Raises RateLimited."""
        use = self._uses.setdefault(key.id, _Use(key.rate_per_minute or 0, time.monotonic()))
        if key.concurrency is not None and use.inside >= key.concurrency:
            raise RateLimited(
                f"The access key may have {key.concurrency} requests at a time. Wait for their answers.",
                {"retry_after_s": 1},
            )
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
            wait = (1 - use.tokens) * 60 / per_minute
            raise RateLimited(
                f"The access key may ask {per_minute} times a minute. Try again later.",
                {"retry_after_s": int(wait) + 1},
            )
        use.tokens -= 1
