"""What a run asked and was answered, and when there was nobody to answer."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

# A connection that broke, or that nobody took.
BROKEN = 0
# So long after PostgreSQL is back a replica may still find a connection that is dead.
GRACE_S = 5.0


@dataclass
class Told:
    """Thread-safe.

    Attributes:
        answers: by call and status; ``BROKEN`` for none.
        writes: that were answered with 2xx.
        looks: at an answered write, at another replica, right after.
        stale: such looks that did not see it, in words.
        wrong: other answers that were not right, in words.
        away: from when to when PostgreSQL was.
    """

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    writes: int = 0
    looks: int = 0
    stale: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    away: list[tuple[float, float]] = field(default_factory=list)
    longest_gap_s: float = 0.0
    longest_gap_away_s: float = 0.0
    _last_good: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, call: str, status: int, *, written: bool = False) -> None:
        """An answer, or that there was none."""
        with self._lock:
            self.answers[call, status] += 1
            self.writes += written
            if 200 <= status < 300:
                self._served()

    def looked(self, stale: str | None) -> None:
        """At a write, elsewhere. ``stale``: what was seen instead, in words."""
        with self._lock:
            self.looks += 1
            if stale is not None:
                self.stale.append(stale)

    def complain(self, words: str) -> None:
        with self._lock:
            self.wrong.append(words)

    def begin(self) -> None:
        """From now on somebody always asks."""
        self._last_good = time.monotonic()

    @contextmanager
    def database_away(self) -> Iterator[None]:
        """For the time of the block."""
        self.away.append((time.monotonic(), float("inf")))
        try:
            yield
        finally:
            self.away[-1] = (self.away[-1][0], time.monotonic())

    def may_be_away(self, sent: float, answered: float) -> bool:
        """Whether PostgreSQL was away at a moment of a request."""
        return any(answered >= start and sent <= end + GRACE_S for start, end in self.away)

    def _served(self) -> None:
        now = time.monotonic()
        gap = now - self._last_good
        if self.may_be_away(self._last_good, now):
            self.longest_gap_away_s = max(self.longest_gap_away_s, gap)
        else:
            self.longest_gap_s = max(self.longest_gap_s, gap)
        self._last_good = now
