"""When a call is made again: only where that can do no harm, not for ever, and not sooner than the service asks."""

import random
import time
from dataclasses import dataclass

from likeness.errors import Busy, LikenessError, NoAnswer, ServiceError


@dataclass(frozen=True)
class Retries:
    """How often a call is made again.

    Attributes:
        attempts: of one call, the first included; 1 never makes it again.
        first_pause_s: before the second attempt; it doubles from there, less up to a half by chance.
        longest_pause_s: unless the service asks for more.
        patience_s: no attempt begins later than this after the first.
    """

    attempts: int = 5
    first_pause_s: float = 0.2
    longest_pause_s: float = 10.0
    patience_s: float = 60.0

    def pause_after(self, attempt: int, asked_s: float | None) -> float:
        """Seconds to wait after attempt number ``attempt`` (from 1), of which the service asked for ``asked_s``."""
        pause = min(self.first_pause_s * 2.0 ** min(attempt - 1, 30), self.longest_pause_s) * random.uniform(0.5, 1)
        return max(pause, asked_s or 0.0)


DEFAULT_RETRIES, NO_RETRIES = Retries(), Retries(attempts=1)


class Attempts:
    """Those of one call.

    Args:
        repeatable: whether it may be sent again when nobody knows what became of it.
        timeout_s: how long it may take, all attempts and pauses together; None: as long as they take.
    """

    def __init__(self, retries: Retries, repeatable: bool, timeout_s: float | None) -> None:
        self._retries, self._repeatable = retries, repeatable
        now = time.monotonic()
        self._last_start = now + retries.patience_s
        self._deadline = None if timeout_s is None else now + timeout_s
        self._made = 0
        self.answer_lost = False

    @property
    def remaining_s(self) -> float | None:
        """How long the call may still take."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def pause_after(self, error: LikenessError) -> float:
        """Note that an attempt failed; how long to wait before the next.

        Raises:
            LikenessError: the ``error``, where there is to be no next attempt.
        """
        self._made += 1
        self.answer_lost |= isinstance(error, NoAnswer)
        again = isinstance(error, Busy) or (isinstance(error, NoAnswer) and self._repeatable)
        asked = error.retry_after_s if isinstance(error, ServiceError) else None
        pause = self._retries.pause_after(self._made, asked)
        start = time.monotonic() + pause
        late = start > self._last_start or (self._deadline is not None and start >= self._deadline)
        if not again or late or self._made >= self._retries.attempts:
            raise error
        return pause
