"""LISTEN and NOTIFY: replicas tell each other which gallery was changed.

It is only a hint, so that a replica is usually in step before it is asked; a search looks at the revision itself. What
is said while a connection is down is lost, and made up for when it is back.
"""

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from service.errors import LikenessError
from service.postgres.failures import storage_errors

CHANNEL = "likeness_changes"
# Between attempts to connect again.
PAUSE_S = 1.0

log = logging.getLogger(__name__)


class Wakes:
    """Hears of changes on a connection of its own, in a thread of its own."""

    def __init__(self, engine: Engine, heard: Callable[[int | None], object]) -> None:
        """``heard``: called with the key of a gallery, or None where any may have been changed unheard."""
        self._engine, self._heard = engine, heard
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gallery-wakes", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()

    def tell(self, gallery_key: int) -> None:
        """Tell all replicas that a change of this gallery is committed; whether they hear it or not."""
        # Not in the transaction of the change: PostgreSQL lets those that notify commit only one at a time.
        engine = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        with contextlib.suppress(LikenessError, SQLAlchemyError), storage_errors(), engine.connect() as connection:
            connection.execute(_TELL, {"channel": CHANNEL, "key": str(gallery_key)})

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                with storage_errors():
                    self._listen()
            except LikenessError as error:
                log.warning("Changes of other replicas are not heard of for now: %s", error)
            except Exception:
                log.exception("Changes of other replicas are not heard of for now.")
            self._ending.wait(PAUSE_S)

    def _listen(self) -> None:
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            # Its own, and never the pool's again: who listens once, goes on listening.
            connection.detach()
            connection.exec_driver_sql(f"LISTEN {CHANNEL}")
            self._heard(None)
            driver: Any = connection.connection.dbapi_connection
            while not self._ending.is_set():
                for notice in driver.notifies(timeout=0.2):
                    if notice.payload.isdecimal():
                        self._heard(int(notice.payload))


_TELL = text("SELECT pg_notify(:channel, :key)")
