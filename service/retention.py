"""Erases persons whose time is up, while the service runs."""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from service.errors import LikenessError, NotReady
from service.gallery.gallery import Galleries
from service.security.audit_log import AuditLog, Event

log = logging.getLogger(__name__)

BATCH = 500
# A clock that has run further than this beside the monotonic one was set.
JUMP = timedelta(minutes=10)
# So long must a clock that was set forward stand by it before persons are erased for it.
DOUBT_S = 3600.0


class Retention:
    """Looks for persons whose time is up. Not thread-safe: one call of ``sweep`` at a time."""

    def __init__(
        self,
        galleries: Galleries,
        audit: AuditLog | None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._galleries, self._audit = galleries, audit
        self._now, self._monotonic = now, monotonic
        self._wall, self._steady = now(), monotonic()
        self._doubtful_until = -float("inf")

    def sweep(self) -> int:
        """Erase all whose time is up; how many that were.

        Not right after the clock was set forward: a clock that is wrong by years would erase everybody. Galleries that
        are still being loaded, and persons whom an error kept, are left for the next time.
        """
        if self._clock_was_set():
            return 0
        at, erased, kept = self._now(), 0, set[tuple[str, str]]()
        while True:
            due = [place for place in self._galleries.store.due(at, BATCH + len(kept)) if place not in kept]
            if not due:
                return erased
            for gallery, person in due:
                if self._erase(gallery, person, at):
                    erased += 1
                else:
                    kept.add((gallery, person))

    def _erase(self, gallery: str, person: str, at: datetime) -> bool:
        try:
            if not self._galleries.delete_if_due(gallery, person, at):
                return False
        except NotReady:
            return False
        except LikenessError:
            log.exception("A person whose time is up could not be erased.")
            return False
        if self._audit is not None:
            self._audit.append(
                Event("retention", "delete_person", gallery, person, status=204), durable=True, deletes=True
            )
        return True

    def _clock_was_set(self) -> bool:
        wall, steady = self._now(), self._monotonic()
        ahead = (wall - self._wall) - timedelta(seconds=steady - self._steady)
        self._wall, self._steady = wall, steady
        if ahead > JUMP:
            log.warning("The clock was set forward by %s; nobody is erased for an hour.", ahead)
            self._doubtful_until = steady + DOUBT_S
        elif ahead < -JUMP:
            # Set back, as after a jump: what it says now is as good as it was before.
            self._doubtful_until = -float("inf")
        return steady < self._doubtful_until
