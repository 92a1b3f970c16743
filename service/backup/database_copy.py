"""A copy of the SQLite database, of one moment, while the service works on it; and what is in a copy."""

import sqlite3
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from service.backup.archive import BackupDamaged
from service.errors import Unavailable
from service.files import make_private_file
from service.gallery.database import BUSY_TIMEOUT_MS, storage_errors


@dataclass(frozen=True)
class Facts:
    """What a copy of the database holds.

    Attributes:
        key_file: id of the file of keys that belongs to it, in hex.
        revision: of its tables.
    """

    key_file: str
    revision: str
    galleries: int
    persons: int
    faces: int

    def told(self) -> dict[str, Any]:
        return asdict(self)


def copy_database(path: Path, to: Path) -> None:
    """Copy the database ``path`` into the new file ``to``.

    It is read in one transaction, so that it is of one moment. Others write meanwhile; a deletion waits, ten seconds
    at most, as the write-ahead log cannot be emptied before that is over: that is made up for here.

    Raises:
        Unavailable: there is none, or it is damaged.
    """
    if not path.exists():
        raise Unavailable(f"There is no database {path}: the service has not been started yet, or it is elsewhere.")
    make_private_file(to)
    with storage_errors(path), closing(_connected(path, "rw")) as source:
        # The checkpoint must not take what it writes for durable before it is.
        source.execute("PRAGMA synchronous = FULL")
        with closing(sqlite3.connect(to)) as copy:
            # It is thrown away if anything goes wrong, and on the disk when it is in the archive.
            copy.execute("PRAGMA journal_mode = OFF")
            copy.execute("PRAGMA synchronous = OFF")
            source.backup(copy)
        source.execute("PRAGMA busy_timeout = 50")
        source.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def examine(copy: Path) -> tuple[Facts, NDArray[np.int64]]:
    """What a copy holds, and the keys of its persons, ascending. Raises BackupDamaged."""
    try:
        with closing(_connected(copy, "ro&immutable=1")) as connection:
            [(sound,), *_] = connection.execute("PRAGMA quick_check(1)")
            if sound != "ok":
                raise BackupDamaged(f"The copy of the database is damaged: {sound}")
            [(key_file,)] = connection.execute("SELECT id FROM key_file")
            [(revision,)] = connection.execute("SELECT version_num FROM alembic_version")
            [(galleries,)] = connection.execute("SELECT count(*) FROM galleries WHERE id IS NOT NULL")
            [(faces,)] = connection.execute("SELECT count(*) FROM faces")
            numbers = np.array(connection.execute("SELECT key FROM persons ORDER BY key").fetchall(), np.int64)
    except (sqlite3.Error, ValueError) as error:
        raise BackupDamaged(f"The copy of the database is damaged: {error}") from error
    return Facts(key_file.hex(), revision, galleries, len(numbers), faces), numbers.reshape(-1)


def _connected(path: Path, mode: str) -> sqlite3.Connection:
    # Not made where it is missing, as a plain path would be.
    connection = sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode={mode}", uri=True, isolation_level=None)
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    return connection
