"""The one copy of the keys, of the access keys and of the audit log that each backup replaces.

Kept history of them would bring back who was erased and what was revoked. The master key is never among them.
"""

import os
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.backup.database_copy import Facts
from service.files import make_private_folder, replace_file, sync_folder
from service.security import access_key_file
from service.security.audit_file import HEAD_NAME, LOG_NAME
from service.security.key_file import FILE_NAME, NEVER, KeyFileError, Sealed, look_at

# A slot is torn for less than a microsecond.
_READINGS = 10


def copy_newest(keys: Path, audit: Path, to: Path, facts: Facts, persons: NDArray[np.int64]) -> Sealed:
    """Copy what is in the folders ``keys`` and ``audit`` into ``to``; the file of keys that it is now.

    Args:
        facts, persons: of the copy of the database, which was made before.

    Raises:
        KeyFileError: these are not the keys of that database.
    """
    sealed = read_keys(keys / FILE_NAME, persons)
    check_keys(sealed, keys / FILE_NAME, facts, persons)
    make_private_folder(to)
    replace_file(to / FILE_NAME, sealed.content)
    access = keys / access_key_file.FILE_NAME
    if access.exists():
        replace_file(to / access.name, access.read_bytes())
    # The head first: the lines up to it are in what is read after it.
    for name in (HEAD_NAME, LOG_NAME):
        if (audit / name).exists():
            make_private_folder(to / "audit")
            _copy(audit / name, to / "audit" / name)
    return sealed


def put_back(newest: Path, keys: Path, audit: Path) -> None:
    """The other way, into new folders ``keys`` and ``audit``."""
    make_private_folder(keys)
    for name in (FILE_NAME, access_key_file.FILE_NAME):
        if (newest / name).exists():
            replace_file(keys / name, (newest / name).read_bytes())
    for name in (HEAD_NAME, LOG_NAME):
        if (newest / "audit" / name).exists():
            make_private_folder(audit)
            _copy(newest / "audit" / name, audit / name)


def read_keys(path: Path, persons: NDArray[np.int64]) -> Sealed:
    """The file of keys, while the service may be overwriting keys in it: no slot of these persons is half written."""
    last = look_at(path)
    for _ in range(_READINGS):
        before, last = last, look_at(path)
        within = persons[persons <= min(len(before.slots.states), len(last.slots.states))] - 1
        differ = (before.slots.states[within] != last.slots.states[within]) | (
            before.slots.names[within] != last.slots.names[within]
        ).any(axis=1)
        # What differs was being destroyed, and now is.
        if last.slots.clean[within[differ]].all():
            return last
    raise KeyFileError(f"{path} changes faster than it can be read. Try again.")


def check_keys(sealed: Sealed, path: Path, facts: Facts, persons: NDArray[np.int64]) -> None:
    """Raises KeyFileError: the keys are another database's, or older than the copy of the database."""
    if sealed.id.hex() != facts.key_file:
        raise KeyFileError(
            f"The keys in {path} are not those of the database: they have the id {sealed.id.hex()}, and the ones with "
            f"the id {facts.key_file} are needed."
        )
    states = np.full(len(persons), NEVER, np.uint8)
    within = persons <= len(sealed.slots.states)
    states[within] = sealed.slots.states[persons[within] - 1]
    if lacking := int(np.count_nonzero(states == NEVER)):
        raise KeyFileError(
            f"The keys of {lacking} persons are not in {path}: it is older than the copy of the database. Take its "
            "newest copy."
        )


def _copy(source: Path, to: Path) -> None:
    """Like ``replace_file``, for what may be large; what was there is not overwritten on the disk."""
    beside = to.with_name(to.name + ".new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with source.open("rb") as reading, os.fdopen(descriptor, "wb") as writing:
        shutil.copyfileobj(reading, writing, 2**20)
        writing.flush()
        os.fsync(writing.fileno())
    beside.replace(to)
    sync_folder(to.parent)
