"""Transactions of the store: many readers, one writer, and deletions that leave nothing behind."""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from service.errors import InsufficientStorage, LikenessError
from service.gallery.database import BUSY_TIMEOUT_MS, WRITES, storage_errors
from service.reserve import RESERVE_BYTES, Reserve

log = logging.getLogger(__name__)
T = TypeVar("T")

# Reads of the store last well under a second, so a WAL that cannot be emptied for this long is an oddity.
ERASE_PATIENCE_S = 10.0


class Sessions:
    """Transactions on one database. Thread-safe."""

    def __init__(self, engine: Engine, reserve_bytes: int = RESERVE_BYTES) -> None:
        if not engine.url.database:
            raise ValueError(f"The store needs a database file, not {engine.url}.")
        self.engine = engine
        self.path = Path(engine.url.database)
        self._reserve = Reserve.beside(self.path, reserve_bytes)
        # Waiting here is fair and cheap; in SQLite it would be polling. It also keeps an enrolment from taking the
        # room of the reserve while a deletion uses it.
        self._writing = threading.RLock()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view of the whole database. Keep it short: it stops the WAL from being emptied."""
        with storage_errors(self.path), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is durable when it ends, and undone by an exception. Raises InsufficientStorage."""
        with self._writing, storage_errors(self.path):
            # Room that came back goes to the reserve first.
            self._reserve.restore()
            with self._transaction() as connection:
                yield connection

    def delete(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a durable transaction that works on a full disk too.

        ``work`` is called a second time if the first met a full disk. Call ``erase`` afterwards.
        """
        with self._writing, storage_errors(self.path):
            try:
                with storage_errors(self.path), self._transaction() as connection:
                    return work(connection)
            except InsufficientStorage:
                self._reserve.release()
                # The WAL itself may hold most of the room.
                self._empty_wal()
            with self._transaction() as connection:
                return work(connection)

    def erase(self, patience_s: float = ERASE_PATIENCE_S) -> bool:
        """Empty the WAL, so that nothing deleted is left in it, and restore the reserve.

        SQLite cannot empty it while some reader still sees the state from before the deletion; that is waited for,
        ``patience_s`` at most. False, and a warning in the log, when it stayed: the deletion is durable all the same,
        and the next ``erase`` (at the latest the one with which a store opens) makes up for it.
        """
        deadline = time.monotonic() + patience_s
        try:
            while not (empty := self._empty_wal()) and time.monotonic() < deadline:
                time.sleep(0.02)
            with self._writing:
                self._reserve.restore()
        except (LikenessError, OSError, DBAPIError, sqlite3.Error):
            # Not raised: the deletion was durable before, and must not look as if it had failed.
            log.exception("The WAL of %s could not be emptied.", self.path)
            return False
        if not empty:
            log.warning("The WAL of %s could not be emptied yet; deleted templates are still in it.", self.path)
        return empty

    def close(self) -> None:
        """Close all connections and unlock the folder."""
        self.engine.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self.engine.connect().execution_options(**{WRITES: True}) as connection, connection.begin():
            yield connection

    def _empty_wal(self) -> bool:
        # Not through a transaction, in which SQLite refuses to do it.
        with self._writing, storage_errors(self.path), closing(self.engine.raw_connection()) as connection:
            cursor = connection.cursor()
            try:
                cursor.execute("PRAGMA busy_timeout = 50")
                busy = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                    raise
                # No room to grow the database by what was added last: the reserve is there for that.
                self._reserve.release()
                busy = 1
            finally:
                cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
                cursor.close()
        return not busy
