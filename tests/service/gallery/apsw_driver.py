"""APSW in the place of ``sqlite3`` under SQLAlchemy: only APSW lets Python be the disk below SQLite (a VFS).

APSW is no DB-API driver. This is as much of one as SQLAlchemy's dialect and the store ask for; the statements are
theirs, and the transactions are begun and ended as ``sqlite3`` does with ``isolation_level = None``. An error of
APSW's is not translated: it fails the test that met it.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import apsw


class Driver:
    """A DB-API module whose connections use the VFS of the name ``vfs``."""

    paramstyle = sqlite3.paramstyle
    sqlite_version_info = tuple(map(int, apsw.sqlite_lib_version().split(".")))
    Binary = memoryview
    # SQLAlchemy asks for the classes by name.
    Error = sqlite3.Error
    ProgrammingError = sqlite3.ProgrammingError

    def __init__(self, vfs: str) -> None:
        self.vfs = vfs

    def connect(self, path: str, **_: object) -> "DriverConnection":
        return DriverConnection(apsw.Connection(path, vfs=self.vfs))


class DriverConnection:
    """A connection that commits when told to."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def cursor(self) -> "DriverCursor":
        return DriverCursor(self._connection)

    def execute(self, statement: str) -> "DriverCursor":
        return self.cursor().execute(statement)

    def commit(self) -> None:
        self._end("COMMIT")

    def rollback(self) -> None:
        self._end("ROLLBACK")

    def close(self) -> None:
        self._connection.close()

    def create_function(self, name: str, arguments: int, function: Any, deterministic: bool = False) -> None:
        self._connection.create_scalar_function(name, function, arguments, deterministic=deterministic)

    def _end(self, statement: str) -> None:
        if self._connection.in_transaction:
            self._connection.execute(statement)


class DriverCursor:
    """A statement's rows, fetched when it is executed."""

    lastrowid = rowcount = -1

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._rows: list[Any] = []
        self.description: Sequence[Any] | None = None

    def execute(self, statement: str, parameters: Any = ()) -> "DriverCursor":
        return self._run(lambda cursor: cursor.execute(statement, parameters))

    def executemany(self, statement: str, parameters: Iterable[Any]) -> "DriverCursor":
        return self._run(lambda cursor: cursor.executemany(statement, parameters))

    def fetchone(self) -> Any:
        return self._rows.pop(0) if self._rows else None

    def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows, []
        return rows

    def close(self) -> None:
        self._rows = []

    def _run(self, work: Any) -> "DriverCursor":
        cursor = self._connection.cursor()
        # Only here does APSW tell the columns of a statement that gives no rows.
        cursor.exec_trace = self._describe
        self._rows = list(work(cursor))
        self.rowcount = self._connection.changes()
        self.lastrowid = self._connection.last_insert_rowid()
        return self

    def _describe(self, cursor: apsw.Cursor, _statement: str, _parameters: object) -> bool:
        self.description = tuple((*column[:1], *[None] * 6) for column in cursor.get_description()) or None
        return True
