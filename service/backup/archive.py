"""A folder of backups: each is whole, and what it has in common with others lies there once.

::

    2026-11-24T17-20-05.123Z.json   one backup: when, what, and the digests of its pieces in their order
    pieces/ab/abcd…                 256 KiB of a database, under their SHA-256

So a backup every few minutes costs what has changed, every one of them can be restored without the others, and any can
be deleted. A backup exists when its ``.json`` does, which is written last.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from service.errors import InvalidRequest, Unavailable
from service.files import lock_folder, make_private_folder, replace_file, sync_folder

PIECE_BYTES = 256 * 1024
FORMAT = 1
_STAMP = "%Y-%m-%dT%H-%M-%S"


class BackupDamaged(Unavailable):
    """A backup is not what was written."""


@dataclass(frozen=True)
class Backup:
    """One backup.

    Attributes:
        at: everything that was answered before this time is in it.
        facts: what else is known of it.
        pieces: SHA-256 of each, in hex.
        size: bytes of all together.
    """

    at: datetime
    facts: Mapping[str, Any]
    pieces: Sequence[str]
    size: int

    def shown(self) -> dict[str, Any]:
        """For people."""
        return {"at": iso(self.at), **self.facts, "bytes": self.size}


class Archive:
    """A folder of backups. One process at a time adds to it or takes away."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pieces = folder / "pieces"

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold it alone. Raises FolderInUse."""
        make_private_folder(self.folder)
        make_private_folder(self._pieces)
        lock = lock_folder(self.folder, "folder of backups")
        try:
            yield
        finally:
            os.close(lock)

    def all(self) -> list[Backup]:
        """Oldest first. Raises BackupDamaged."""
        return [_read(path) for path in sorted(self.folder.glob("*.json"))]

    def at(self, moment: datetime | None) -> Backup:
        """The newest that was made at ``moment`` or before; None: the newest. Raises InvalidRequest."""
        found = [backup for backup in self.all() if moment is None or backup.at <= moment]
        if not found:
            when = "" if moment is None else f" of {iso(moment)} or before"
            raise InvalidRequest(f"There is no backup{when} in {self.folder}.")
        return found[-1]

    def add(self, content: Path, at: datetime, facts: Mapping[str, Any]) -> tuple[Backup, int]:
        """Keep the file ``content``; the backup, and how many bytes of it were not there yet."""
        names, size, new = [], 0, 0
        with content.open("rb") as stream:
            while piece := stream.read(PIECE_BYTES):
                name = hashlib.sha256(piece).hexdigest()
                names.append(name)
                size += len(piece)
                new += self._keep(name, piece)
        for folder in {self._place(name).parent for name in names}:
            sync_folder(folder)
        backup = Backup(at, facts, names, size)
        told = {"format": FORMAT, "at": iso(at), "facts": facts, "size": size, "pieces": names}
        replace_file(self.folder / f"{_stamp(at)}.json", json.dumps(told).encode())
        return backup, new

    def write(self, backup: Backup, to: Path) -> None:
        """Put a backup together in the new file ``to``, durably. Raises BackupDamaged."""
        descriptor = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            for name in backup.pieces:
                stream.write(self._piece(name))
            stream.flush()
            os.fsync(stream.fileno())
            if stream.tell() != backup.size:
                raise BackupDamaged(f"The backup of {iso(backup.at)} has {stream.tell():,} bytes, not {backup.size:,}.")

    def prune(self, keep: int | None) -> int:
        """Delete all but the newest ``keep`` backups (None: none), and pieces that none needs; how many backups."""
        backups = sorted(self.folder.glob("*.json"))
        gone = [] if keep is None else backups[: max(0, len(backups) - keep)]
        for path in gone:
            path.unlink()
        sync_folder(self.folder)
        needed = {name for backup in self.all() for name in backup.pieces}
        for path in self._pieces.glob("*/*"):
            if path.name not in needed:
                path.unlink()
        return len(gone)

    def _place(self, name: str) -> Path:
        return self._pieces / name[:2] / name

    def _keep(self, name: str, piece: bytes) -> int:
        path = self._place(name)
        # Compared, as one that was damaged would spoil every backup to come.
        if path.exists() and path.stat().st_size == len(piece) and path.read_bytes() == piece:
            return 0
        make_private_folder(path.parent)
        beside = path.with_name("new")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(piece)
            stream.flush()
            os.fsync(descriptor)
        # The folder is synced once, with all that came into it.
        beside.replace(path)
        return len(piece)

    def _piece(self, name: str) -> bytes:
        path = self._place(name)
        try:
            piece = path.read_bytes()
        except OSError as error:
            raise BackupDamaged(f"A piece of the backup, {path}, cannot be read: {error}") from error
        if hashlib.sha256(piece).hexdigest() != name:
            raise BackupDamaged(f"A piece of the backup, {path}, was damaged. Take another backup.")
        return piece


def iso(at: datetime) -> str:
    """In UTC, to the millisecond."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment_of(text: str) -> datetime:
    """A time as ISO 8601 writes it, in UTC unless it says otherwise. Raises InvalidRequest."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidRequest(f"{text!r} is not a time such as 2026-11-24T17:30:00Z.") from error
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _stamp(at: datetime) -> str:
    return f"{at.astimezone(UTC):{_STAMP}}.{at.microsecond // 1000:03}Z"


def _read(path: Path) -> Backup:
    try:
        told = json.loads(path.read_bytes())
        if told["format"] != FORMAT:
            raise BackupDamaged(f"{path} is of the format {told['format']}; this version knows {FORMAT}.")
        return Backup(datetime.fromisoformat(told["at"]), told["facts"], told["pieces"], told["size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackupDamaged(f"{path} cannot be read ({type(error).__name__}). Take another backup.") from error
