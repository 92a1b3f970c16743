"""Transactions of the store on PostgreSQL: many readers and writers, on any number of replicas."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy import Connection, Engine

from service.gallery.database import WRITES
from service.postgres.failures import storage_errors

T = TypeVar("T")


class PostgresSessions:
    """As ``service.gallery.store_session.Sessions``. Thread-safe."""

    where = "the gallery database"

    def __init__(self, engine: Engine) -> None:
        """Work on ``engine``, from ``open_postgres``."""
        self.engine = engine
        self._reading = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._writing = engine.execution_options(**{WRITES: True})

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view of the whole database. Keep it short: it keeps PostgreSQL from clearing dead rows."""
        with storage_errors(), self._reading.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is durable when it ends, and undone by an exception.

        READ COMMITTED: each statement sees what other replicas have committed. What must not change meanwhile is locked
        first: a change within a gallery by ``store_galleries.get``.
        """
        with storage_errors(), self._writing.connect() as connection, connection.begin():
            yield connection

    def delete(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a durable transaction."""
        with self.write() as connection:
            return work(connection)

    def erase(self) -> bool:
        """Nothing to do: what is deleted is overwritten when PostgreSQL cleans up (VACUUM)."""
        return True

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
