"""Whether PostgreSQL answers, for health checks, which anybody may ask for as often as they like."""

import threading
import time

from service.errors import NotReady, Unavailable
from service.postgres.person_keys import PostgresKeys
from service.postgres.sessions import PostgresSessions

# An answer that takes longer than ``SLOW_S`` is none.
FRESH_S, SLOW_S = 1.0, 3.0


class Readiness:
    """Asks PostgreSQL once a second at most, one thread at a time; others are told what was found last. Thread-safe."""

    def __init__(self, sessions: PostgresSessions, keys: PostgresKeys) -> None:
        self._sessions = sessions
        self._keys = keys
        self._asking = threading.Lock()
        self._asked_at = -FRESH_S
        self._asking_since: float | None = None
        self._found: Unavailable | None = None

    def __call__(self) -> None:
        """Raises Unavailable: it does not answer, takes no writes, or has another master key by now."""
        if time.monotonic() - self._asked_at >= FRESH_S and self._asking.acquire(blocking=False):
            try:
                self._asking_since = time.monotonic()
                self._found = self._ask()
                self._asked_at = time.monotonic()
            finally:
                self._asking_since = None
                self._asking.release()
        since = self._asking_since
        if since is not None and time.monotonic() - since > SLOW_S:
            raise NotReady("The gallery database does not answer. Try again in a moment.", {"retry_after_s": 1})
        if (found := self._found) is not None:
            # A new one each time: a traceback grows with every raise.
            raise NotReady(found.message, {"retry_after_s": 1})

    def _ask(self) -> Unavailable | None:
        try:
            # As a writer: a server that only takes reads is none to be ready with.
            with self._sessions.write() as connection:
                self._keys.check_master(connection)
        except Unavailable as error:
            return error
        return None
