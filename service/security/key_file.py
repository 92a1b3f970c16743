"""The keys of the persons: one file of slots that are overwritten where they lie.

Not a table of the database, for two reasons. A backup of the database holds no key, so a person whose key is destroyed
stays erased in every backup. And a slot is destroyed by writing over it: there is no log, no free page and no packed
page that a copy could be left in, and a full disk does not matter.

::

    record 0     header: magic, version, name of the master key, id of this file
    record 1     the service's own secret, wrapped like a person's key; keys of other purposes come of it
    record 2     not empty once a database belongs to this file
    record 7+k   the key of the person with the store's key k (1, 2, …)

A record has 64 bytes, so that it lies within a sector of a disk: state (1), unused (3), nonce (12), wrapped key (32),
tag (16). The nonce is the key's name too: the row of its person has it, which tells a key that was made anew under the
same number from the old one.
"""

import os
import struct
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray
from sqlalchemy import Connection

from service.errors import Unavailable
from service.files import lock_folder, make_private_folder, replace_file
from service.security.envelope import KEY_BYTES, NONCE_BYTES, derive
from service.security.master_key import NAME_BYTES, MasterKey, MasterPlace, chosen
from service.security.raw_file import RawFile

RECORD, FIRST_PERSON = 64, 8
NEVER, LIVE, DESTROYED = 0, 1, 2
FILE_NAME = "persons.keys"
_MAGIC, _VERSION = b"LIKEKEYS", 1
_HEADER = struct.Struct(f">8sI{NAME_BYTES}s16s")
_TOMBSTONE = bytes([DESTROYED]).ljust(RECORD, b"\0")
_SECRET, _BOUND = 1, 2


class KeyFileError(Unavailable):
    """The keys of the persons are missing, damaged, or not those of this database."""


@dataclass(frozen=True)
class Slots:
    """All slots of persons at one moment; row i is that of the person i + 1.

    Attributes:
        states: uint8 (n,).
        names: uint8 (n, 12).
        clean: bool (n,), nothing but a tombstone is in it.
    """

    states: NDArray[np.uint8]
    names: NDArray[np.uint8]
    clean: NDArray[np.bool_]


def new_name() -> bytes:
    """A name for a key that is to be made; random, and used once."""
    return os.urandom(NONCE_BYTES)


class KeyFile:
    """The key of each person, and the service's secret. Thread-safe; one process has it open."""

    def __init__(self, path: Path, file: RawFile, master: MasterKey, lock: int | None) -> None:
        """See ``open``."""
        self.path = path
        self._file = file
        self._lock = lock
        self._writing = threading.Lock()
        _, self.id = _read_header(path, file)
        self._wrapping = master.wrapping()
        secret = self._unwrap(_SECRET, file.read(_SECRET * RECORD, RECORD))
        if secret is None:
            raise KeyFileError(f"The keys in {path} are damaged. Put the newest copy back.")
        self.secret = secret

    @property
    def where(self) -> str:
        """See ``PersonKeys``."""
        return str(self.path)

    @classmethod
    def open(cls, folder: Path, place: MasterPlace) -> "KeyFile":
        """The keys in ``folder``, made if missing. The folder is locked until ``close``.

        Raises:
            FolderInUse: another process has it open.
            MasterKeyError: there is no master key, or it is another one.
            KeyFileError: the file is damaged.
        """
        make_private_folder(folder)
        lock = lock_folder(folder)
        try:
            path = folder / FILE_NAME
            masters = place.read(may_make=not path.exists())
            if not path.exists():
                replace_file(path, _empty(masters[0]))
            # Of a rotation that was cut off.
            path.with_name(f"{FILE_NAME}.new").unlink(missing_ok=True)
            file = RawFile(path)
            try:
                master = _choose(path, file, masters, place)
                if len(masters) > 1:
                    place.keep(master)
                return cls(path, file, master, lock)
            except BaseException:
                file.close()
                raise
        except BaseException:
            os.close(lock)
            raise

    def close(self) -> None:
        """Close the file and unlock the folder."""
        self._file.close()
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def derived(self, purpose: str) -> bytes:
        """A key of 32 bytes for something else than persons; it outlives a rotation of the master key."""
        return derive(self.secret, purpose)

    @property
    def bound(self) -> bool:
        """A database belongs to this file."""
        return any(self._file.read(_BOUND * RECORD, RECORD))

    def bind(self) -> None:
        """Say, durably, that a database belongs to this file."""
        if not self.bound:
            with self._writing:
                self._file.write(_BOUND * RECORD, _TOMBSTONE)
                self._file.sync()

    def add(self, names: Mapping[int, bytes]) -> None:
        """Make a key for each person, under the name given; durable when this returns.

        Args:
            names: by the store's key of the person; a name is never used twice.
        """
        persons = sorted(names)
        records = [self._wrapped(_record_of(person), names[person], os.urandom(KEY_BYTES)) for person in persons]
        self._write(persons, records)

    def destroy(self, persons: Iterable[int]) -> None:
        """Overwrite the keys of these persons; durable when this returns. Those that have none are passed over."""
        end = self._file.size() // RECORD
        gone = sorted({int(person) for person in persons if _record_of(int(person)) < end})
        self._write(gone, [_TOMBSTONE] * len(gone))

    def within(self, connection: Connection) -> "KeyFile":  # noqa: ARG002
        """Itself: a file takes no part in transactions. A key is on the disk before the row of its person is."""
        return self

    def remove(self, persons: Sequence[int]) -> None:
        """Nothing yet: a transaction that is undone must leave the key. ``destroy`` follows when it is durable."""

    def cipher(self, person: int) -> AESGCM | None:
        """What seals and opens what is kept of a person; None if the key was destroyed."""
        return self.ciphers([person]).get(person)

    def ciphers(self, persons: Sequence[int] | NDArray[np.int64]) -> dict[int, AESGCM]:
        """By person; those whose key was destroyed are left out. Raises KeyFileError for a damaged one."""
        wanted = np.unique(np.asarray(persons, np.int64))
        found: dict[int, AESGCM] = {}
        for start, stop in _spans(wanted):
            first = _record_of(int(wanted[start]))
            count = int(wanted[stop - 1] - wanted[start]) + 1
            records = self._file.read(first * RECORD, count * RECORD)
            for person in wanted[start:stop].tolist():
                record = FIRST_PERSON - 1 + person
                at = (record - first) * RECORD
                key = self._unwrap(record, records[at : at + RECORD])
                if key is not None:
                    found[person] = AESGCM(key)
        return found

    def slots(self) -> Slots:
        """All slots of persons."""
        start = FIRST_PERSON * RECORD
        return _slots_of(self._file.read(start, max(0, self._file.size() - start)))

    def rotate(self, place: MasterPlace, master: MasterKey) -> int:
        """Wrap all keys under another master key; how many persons have one.

        Cut off at any moment, the old master key or the new one opens the file, and ``place`` has both until it is
        settled which. Leaves this object closed for use: open the file again.
        """
        count = 0
        wrapping = master.wrapping()
        content = bytearray(self._file.read(0, self._file.size()))
        content[:RECORD] = _header(master, self.id)
        for record in (_SECRET, *range(FIRST_PERSON, len(content) // RECORD)):
            at = record * RECORD
            key = self._unwrap(record, bytes(content[at : at + RECORD]))
            if key is not None:
                count += record >= FIRST_PERSON
                # The nonce stays: with another key it is a fresh one, and it is the name that the person's row knows.
                name = bytes(content[at + 4 : at + 4 + NONCE_BYTES])
                content[at : at + RECORD] = _slot(wrapping, self.id, record, name, key)
        place.keep(master, *place.read(may_make=False))
        replace_file(self.path, bytes(content))
        place.keep(master)
        return count

    def _write(self, persons: Sequence[int], records: Sequence[bytes]) -> None:
        if not persons:
            return
        with self._writing:
            places = np.array(persons, np.int64)
            for run in np.split(np.arange(len(places)), np.flatnonzero(np.diff(places) != 1) + 1):
                offset = _record_of(int(places[run[0]])) * RECORD
                self._file.write(offset, b"".join(records[run[0] : run[-1] + 1]))
            self._file.sync()

    def _wrapped(self, record: int, name: bytes, key: bytes) -> bytes:
        return _slot(self._wrapping, self.id, record, name, key)

    def _unwrap(self, record: int, slot: bytes) -> bytes | None:
        if len(slot) < RECORD or slot[0] in (NEVER, DESTROYED):
            return None
        try:
            return self._wrapping.decrypt(slot[4:16], slot[16:], self.id + record.to_bytes(8, "big"))
        except InvalidTag as error:
            raise KeyFileError(f"Record {record} of {self.path} is damaged. Put the newest copy back.") from error


def read_secret(folder: Path, place: MasterPlace) -> bytes:
    """The service's secret, while another process has the keys open."""
    path = folder / FILE_NAME
    if not path.exists():
        raise KeyFileError(f"There are no keys in {folder}: the service has not been started yet. Start it once.")
    file = RawFile(path)
    try:
        return KeyFile(path, file, _choose(path, file, place.read(may_make=False), place), None).secret
    finally:
        file.close()


@dataclass(frozen=True)
class Sealed:
    """A file of keys as it lies there, looked at without the master key.

    Attributes:
        content: all of it.
        id: of the file.
        master: name of the master key that it is wrapped under.
    """

    content: bytes
    id: bytes
    master: str
    slots: Slots


def look_at(path: Path) -> Sealed:
    """The file of keys ``path``, also while a service writes it. Raises KeyFileError."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise KeyFileError(f"There are no keys in {path.parent}: {path.name} is missing.") from error
    master, id = _header_of(path, content[:RECORD])
    return Sealed(content, id, master, _slots_of(content[FIRST_PERSON * RECORD :]))


def _slots_of(raw: bytes) -> Slots:
    rows = np.frombuffer(raw.ljust(-(-len(raw) // RECORD) * RECORD, b"\0"), np.uint8).reshape(-1, RECORD)
    return Slots(rows[:, 0].copy(), rows[:, 4 : 4 + NONCE_BYTES].copy(), np.logical_not(rows[:, 1:].any(axis=1)))


def _record_of(person: int) -> int:
    return FIRST_PERSON - 1 + person


def _spans(wanted: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Ranges of ``wanted``, which is sorted, in each of which reading all is cheaper than reading one by one."""
    cuts = (np.flatnonzero(np.diff(wanted) > 64) + 1).tolist()
    return list(zip([0, *cuts], [*cuts, len(wanted)], strict=True)) if len(wanted) else []


def _slot(wrapping: AESGCM, file_id: bytes, record: int, name: bytes, key: bytes) -> bytes:
    return bytes([LIVE, 0, 0, 0]) + name + wrapping.encrypt(name, key, file_id + record.to_bytes(8, "big"))


def _header(master: MasterKey, file_id: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, _VERSION, bytes.fromhex(master.name), file_id).ljust(RECORD, b"\0")


def _empty(master: MasterKey) -> bytes:
    file_id = os.urandom(16)
    secret = _slot(master.wrapping(), file_id, _SECRET, new_name(), os.urandom(KEY_BYTES))
    return (_header(master, file_id) + secret).ljust(FIRST_PERSON * RECORD, b"\0")


def _read_header(path: Path, file: RawFile) -> tuple[str, bytes]:
    """The name of the master key, and the id of the file."""
    return _header_of(path, file.read(0, RECORD))


def _header_of(path: Path, content: bytes) -> tuple[str, bytes]:
    if len(content) < RECORD or content[: len(_MAGIC)] != _MAGIC:
        raise KeyFileError(f"{path} is damaged, or no file of keys. Put the newest copy back.")
    _, version, master, file_id = _HEADER.unpack_from(content)
    if version != _VERSION:
        raise KeyFileError(f"{path} has version {version}; this version of the service knows {_VERSION}.")
    return master.hex(), file_id


def _choose(path: Path, file: RawFile, masters: Sequence[MasterKey], place: MasterPlace) -> MasterKey:
    name, _ = _read_header(path, file)
    return chosen(name, masters, place, f"The keys in {path}")
