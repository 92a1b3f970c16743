"""Backup and restore of a data folder: the store in SQLite, its keys, access keys and audit log."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from service import __version__
from service.backup.archive import Archive, Backup
from service.backup.database_copy import copy_database, examine
from service.backup.newest import check_keys, copy_newest, put_back
from service.errors import InvalidRequest, LikenessError
from service.files import lock_folder, make_private_folder, replace_file, sync_folder
from service.gallery.store import Store
from service.security.key_file import FILE_NAME, KeyFile, look_at
from service.security.master_key import FILE_NAME as MASTER_NAME
from service.security.master_key import FilePlace, MasterPlace

DATABASE = Path("gallery") / "gallery.db"
PARTS = ("keys", "audit", "gallery")
_UNFINISHED = "restoring"


@dataclass(frozen=True)
class Made:
    """What a backup did.

    Attributes:
        new: bytes that were not in the archive before.
        pruned: how many older backups were deleted.
    """

    backup: Backup
    new: int
    pruned: int


@dataclass(frozen=True)
class KeySource:
    """Where a restore has the keys from.

    Attributes:
        folder: with their newest copy.
        place_in: the place of the master key, given the new folder of keys.
        master: a file with the master key, to go into that folder.
    """

    folder: Path
    place_in: Callable[[Path], MasterPlace]
    master: Path | None = None


@dataclass(frozen=True)
class Restored:
    """What a restore did; ``erased_again`` are persons who were erased after the backup."""

    backup: Backup
    galleries: int
    persons: int
    faces: int
    erased_again: int


def back_up(data: Path, archive: Archive, keys: Path, keep: int | None) -> Made:
    """Add a backup of the data folder ``data`` to ``archive``, also while the service runs.

    Args:
        keys: folder for the one copy of keys, access keys and audit log; not within the archive.
        keep: how many backups stay; None: all.

    Raises:
        InvalidRequest: ``keys`` is where it must not be.
        Unavailable: there is nothing to back up, or it is damaged.
    """
    require_apart(keys, archive.folder)
    require_apart(keys, data)
    with archive.changing():
        copy = archive.folder / "copying"
        copy.unlink(missing_ok=True)
        try:
            at = datetime.now(UTC)
            copy_database(data / DATABASE, copy)
            facts, persons = examine(copy)
            sealed = copy_newest(data / "keys", data / "audit", keys, facts, persons)
            told = {**facts.told(), "master_key": sealed.master, "version": __version__}
            backup, new = archive.add(copy, at, told)
        finally:
            copy.unlink(missing_ok=True)
        return Made(backup, new, archive.prune(keep))


def restore(archive: Archive, keys: KeySource, data: Path, moment: datetime | None) -> Restored:
    """Make the data folder ``data`` from the newest backup at ``moment`` or before (None: of all).

    Whoever was erased since is erased again. All of it has been opened with its keys before it is put in its place.

    Raises:
        InvalidRequest: there is no such backup, or ``data`` is not empty.
        FolderInUse: a service runs there.
        Unavailable: the backup or the keys are damaged, or do not belong together.
    """
    backup = archive.at(moment)
    _refuse_used(data)
    make_private_folder(data)
    building = data / _UNFINISHED
    make_private_folder(building)
    try:
        made = _build(archive, backup, keys, building)
    except LikenessError:
        shutil.rmtree(building)
        raise
    for name in PARTS:
        if (building / name).exists():
            (building / name).rename(data / name)
            sync_folder(data)
    building.rmdir()
    return made


def _build(archive: Archive, backup: Backup, source: KeySource, building: Path) -> Restored:
    make_private_folder(building / DATABASE.parent)
    archive.write(backup, building / DATABASE)
    facts, persons = examine(building / DATABASE)
    check_keys(look_at(source.folder / FILE_NAME), source.folder / FILE_NAME, facts, persons)
    put_back(source.folder, building / "keys", building / "audit")
    if source.master is not None:
        replace_file(building / "keys" / MASTER_NAME, _read(source.master))
    place = source.place_in(building / "keys")
    if isinstance(place, FilePlace) and not place.path.exists():
        raise InvalidRequest(
            "The master key is in no backup: name the file that you kept with --master-key-file, or set "
            "LIKENESS_MASTER_KEY or LIKENESS_MASTER_KEY_COMMAND."
        )
    # Now, and not when a service is started on it: what does not open is no backup.
    store = Store.open(building / DATABASE, keys=KeyFile.open(building / "keys", place))
    try:
        return unsealed(store, backup)
    finally:
        store.close()


def unsealed(store: Store, backup: Backup) -> Restored:
    """What a restored store holds, every template of it opened. Raises Unavailable."""
    galleries = list(store.every_gallery())
    for gallery in galleries:
        for _ in store.templates(gallery.key):
            pass
    left, faces = (sum(getattr(gallery, what) for gallery in galleries) for what in ("persons", "faces"))
    # Also of galleries that were being deleted when the backup was made.
    return Restored(backup, len(galleries), left, faces, backup.facts["persons"] - left)


def require_apart(keys: Path, other: Path) -> None:
    """Raises InvalidRequest: one of the two folders is within the other."""
    if _within(keys, other) or _within(other, keys):
        raise InvalidRequest(
            f"The keys must not lie with what they open: {keys} is not apart from {other}. Choose another place for "
            "--keys."
        )


def _refuse_used(data: Path) -> None:
    for name in ("gallery", "keys"):
        if (data / name / "lock").exists():
            os.close(lock_folder(data / name))
    if (data / _UNFINISHED).exists():
        raise InvalidRequest(
            f"A restore into {data} was cut off. Delete {data / _UNFINISHED} and what there is of "
            f"{', '.join(str(data / name) for name in PARTS)}, and run this again."
        )
    for name in PARTS:
        folder = data / name
        if folder.exists() and any(folder.iterdir()):
            raise InvalidRequest(f"{folder} is not empty, and nothing is restored over it. Use a new data folder.")
        if folder.exists():
            folder.rmdir()


def _within(folder: Path, other: Path) -> bool:
    return folder.resolve().is_relative_to(other.resolve())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"The master key {path} cannot be read: {error}") from error


def told(made: Made | Restored) -> dict[str, Any]:
    """As JSON."""
    if isinstance(made, Made):
        return {**made.backup.shown(), "new_bytes": made.new, "pruned": made.pruned}
    return {
        "at": made.backup.shown()["at"],
        **{name: getattr(made, name) for name in ("galleries", "persons", "faces", "erased_again")},
    }
