"""The SQLite file under the store: how it is opened, locked and migrated, and what its errors mean.

A commit is on the disk when it returns (WAL, ``synchronous=FULL``), and what is deleted is overwritten
(``secure_delete``; the WAL is emptied by ``Sessions.erase``).
"""

import errno
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from service.errors import InsufficientStorage, LikenessError, NotReady, Overloaded, Unavailable
from service.files import lock_folder, make_private_file, make_private_folder
from service.reserve import Reserve
from service.security.key_file import KeyFile

BUSY_TIMEOUT_MS = 5000
# Three 512-d templates fit a page of 8 KiB, and only one a page of SQLite's usual 4 KiB.
PRAGMAS = (
    "PRAGMA page_size = 8192",
    f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA secure_delete = ON",
    "PRAGMA wal_autocheckpoint = 512",
    # Templates must not be left behind in files under /tmp.
    "PRAGMA temp_store = MEMORY",
)
# Option of a connection that is going to write.
WRITES = "likeness_writes"

# SQLite says IOERR for a quota that is used up, and IOERR_SHMSIZE where its shared memory finds no room.
_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_REFUSED = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}


class NewerDatabase(NotReady):
    """The database was made by a newer version than this one."""


def open_database(path: Path, keys: KeyFile) -> Engine:
    """Open the database file ``path``, made (with its folder) if missing, and bring its tables up to date.

    The folder is locked for this process until ``Engine.dispose``.

    Args:
        keys: of the persons; templates that were kept in clear by an older version are sealed with them.

    Raises:
        FolderInUse: another process (or engine) has it open.
        NewerDatabase: it was made by a newer version.
        InsufficientStorage: the disk is full and even the reserve for deletions does not help.
        Unavailable: it cannot be opened, or is damaged.
    """
    with storage_errors(path):
        make_private_folder(path.parent)
        lock = lock_folder(path.parent)
        engine = None
        try:
            # Private also if an older one is there; SQLite gives the WAL the same mode.
            make_private_file(path)
            engine = _engine(path)
            _migrate_even_on_a_full_disk(engine, path, keys)
        except BaseException:
            if engine is not None:
                engine.dispose()
            os.close(lock)
            raise
    # Once: closing a number twice could close some other file.
    event.listen(engine, "engine_disposed", lambda _: os.close(lock), once=True)
    return engine


def migrate(engine: Engine, keys: KeyFile) -> None:
    """Bring the tables up to date, all or nothing. Raises NewerDatabase, KeyFileError."""
    with engine.connect().execution_options(**{WRITES: True}) as connection, connection.begin():
        bring_up_to_date(connection, f"database {engine.url.database}", keys)


def bring_up_to_date(connection: Connection, database: str, keys: KeyFile | None) -> None:
    """Run the migrations that are missing, in the open transaction of ``connection``.

    Args:
        database: in words, for messages.
        keys: of the persons, where they are in a file.

    Raises:
        NewerDatabase, KeyFileError
    """
    config = Config()
    # "%" would be taken for interpolation.
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    current = MigrationContext.configure(connection).get_current_revision()
    if current == script.get_current_head():
        return
    known = {revision.revision for revision in script.walk_revisions()}
    if current is not None and current not in known:
        raise NewerDatabase(
            f"The {database} has revision {current!r}, which this version does not know: "
            "it was made by a newer one. Install that version, or use another data folder.",
            {"revision": current},
        )
    config.attributes["connection"] = connection
    config.attributes["keys"] = keys
    command.upgrade(config, "head")


@contextmanager
def storage_errors(path: Path | str) -> Iterator[None]:
    """Turn what the database and the file system say into domain errors; ``path`` is named in them."""
    try:
        yield
    except (DBAPIError, sqlite3.Error, OSError) as error:
        original = error.orig if isinstance(error, DBAPIError) else error
        domain = _domain_error(path, original)
        if domain is None:
            raise
        raise domain from error
    except PoolTimeout as error:
        raise Overloaded(
            "All connections to the gallery database are in use. Try again later.", {"retry_after_s": 1}
        ) from error


def _domain_error(path: Path | str, error: BaseException | None) -> LikenessError | None:
    code = getattr(error, "sqlite_errorcode", 0)
    if code in _FULL or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)):
        return InsufficientStorage(
            f"The disk that holds {path} is full; nothing was written. Make room, or delete persons or galleries."
        )
    if code & 0xFF in _DAMAGED:
        return Unavailable(f"The gallery database {path} is damaged ({error}). Restore it from a backup.")
    if code & 0xFF in _REFUSED or isinstance(error, PermissionError):
        return Unavailable(f"The gallery database {path} cannot be opened ({error}). Check its permissions.")
    if code & 0xFF == sqlite3.SQLITE_BUSY:
        return Overloaded(f"The gallery database {path} is busy. Try again later.", {"retry_after_s": 1})
    return None


def _engine(path: Path) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"check_same_thread": False},
        pool_size=16,
        max_overflow=48,
        # Read again by SQLite's JSON functions, which compare keys as they are written: no \u escapes.
        json_serializer=partial(json.dumps, ensure_ascii=False, allow_nan=False),
        # Never shown in an error or a log: names and templates.
        hide_parameters=True,
    )
    event.listen(engine, "connect", _set_up)
    event.listen(engine, "begin", _begin)
    return engine


def _set_up(connection: Any, _record: object) -> None:
    # Transactions are begun by _begin: the driver's own would start before the first write only.
    connection.isolation_level = None
    for pragma in PRAGMAS:
        connection.execute(pragma).close()


def _begin(connection: Connection) -> None:
    # A deferred transaction that reads and then writes fails at once (BUSY) if another wrote in between.
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _migrate_even_on_a_full_disk(engine: Engine, path: Path, keys: KeyFile) -> None:
    try:
        with storage_errors(path):
            migrate(engine, keys)
    except InsufficientStorage:
        # SQLite needs some room to open a database at all; the store restores the reserve when it can.
        Reserve.beside(path).release()
        with storage_errors(path):
            migrate(engine, keys)
