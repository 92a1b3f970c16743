"""Who did what to which person and when: lines that are chained, so that none can be taken out or changed unnoticed.

A line is JSON: ``seq`` (1, 2, …), ``at`` (UTC), ``actor`` (id of an access key; ``retention``; ``no-auth``),
``action``, ``gallery``, ``person``, ``face``, ``status`` (of the HTTP answer), ``request_id``, ``details``, and
``mac``, which is HMAC-SHA256 over the mac of the line before and this line's own bytes. Its key comes of the service's
secret, so that nobody without the master key can write a chain that verifies. No images, no embeddings, no names.

``audit.head`` holds number and mac of the last line that was synced, with a mac of its own: lines that are taken from
the end are missed by it. It has two places that are written in turn, so that a crash damages one at most. Lines that
changed something are on the disk before the answer is sent; those of reads and searches within a second.
"""

import errno
import hashlib
import hmac
import json
import logging
import os
import re
import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from service.errors import InsufficientStorage, Unavailable
from service.files import make_private_file, make_private_folder
from service.security.raw_file import RawFile

log = logging.getLogger(__name__)

LOG_NAME, HEAD_NAME = "audit.log", "audit.head"
# Blank lines that follow the last one hold room on the disk: when it is full some thousand searches can still be told
# of, and after them, with the rest, some thousand deletions.
ROOM_BYTES, LAST_ROOM_BYTES = 3 * 2**19, 2**19
PURPOSE = "audit log"
_TAIL = re.compile(rb',"mac":"([0-9a-f]{64})"\}')
_HEAD = struct.Struct(">Q32s32s")
_HEAD_PLACES = (0, 512)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class AuditBroken(Unavailable):
    """The audit log is not what the service wrote."""


@dataclass(frozen=True)
class Event:
    """What is told of one action."""

    actor: str
    action: str
    gallery: str | None = None
    person: str | None = None
    face: str | None = None
    status: int | None = None
    request_id: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Receipt:
    """A line of the log, by number and mac; it can be looked up with ``likeness audit verify --receipt``."""

    seq: int
    at: str
    mac: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.mac}"


class AuditLog:
    """The log of one data folder, open for writing. Thread-safe."""

    def __init__(self, folder: Path, key: bytes) -> None:
        """Open the log in ``folder``, made if missing. A last line that a crash cut off is taken away.

        Raises:
            AuditBroken: its end is not what was written last.
        """
        make_private_folder(folder)
        self.path = folder / LOG_NAME
        for name in (LOG_NAME, HEAD_NAME):
            make_private_file(folder / name)
        self._key = key
        self._writing, self._syncing = threading.Lock(), threading.Lock()
        self._seq, self._mac, self._end, self._size = 0, _genesis(key), 0, 0
        self._synced, self._place = 0, 0
        self._head = RawFile(folder / HEAD_NAME)
        self._file = RawFile(self.path)
        try:
            self._resume()
        except BaseException:
            self._file.close()
            self._head.close()
            raise

    def require_room(self) -> None:
        """Raises InsufficientStorage when only searches and deletions can still be told of."""
        with self._writing:
            if not self._make_room():
                raise InsufficientStorage(
                    f"The disk that holds the audit log {self.path} is full; nothing was done. Make room."
                )

    def append(self, event: Event, durable: bool, deletes: bool = False) -> Receipt:
        """Add a line; with ``durable`` it is on the disk when this returns, else after the next ``sync``.

        Args:
            deletes: a part of the room is for such lines alone.

        Raises:
            InsufficientStorage: the disk is full, and the room that was held is used up.
        """
        with self._writing:
            at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            seq = self._seq + 1
            told = {"seq": seq, "at": at, **{k: v for k, v in vars(event).items() if v is not None and v != {}}}
            # On a line of its own whatever is in it: JSON escapes what breaks lines.
            body = json.dumps(told, separators=(",", ":"), allow_nan=False).encode()[:-1]
            mac = _mac(self._key, self._mac, body)
            self._write(body + b',"mac":"' + mac.hex().encode() + b'"}\n', deletes)
            self._seq, self._mac = seq, mac
        if durable:
            self.sync(seq)
        return Receipt(seq, at, mac.hex())

    def sync(self, upto: int | None = None) -> None:
        """See to it that the lines up to ``upto`` (None: all) are on the disk. Callers that wait together share it."""
        with self._syncing:
            if self._synced >= (self._seq if upto is None else upto):
                return
            with self._writing:
                seq, mac = self._seq, self._mac
            self._file.sync()
            self._head.write(_HEAD_PLACES[self._place], _head(self._key, seq, mac))
            self._head.sync()
            self._place = 1 - self._place
            self._synced = seq

    def close(self) -> None:
        """Sync and close."""
        self.sync()
        os.truncate(self.path, self._end)
        self._file.close()
        self._head.close()

    def _resume(self) -> None:
        content_end = self._file.size()
        seq, mac, place = _read_head(self._key, self._head.read(0, 1024), content_end)
        self._place = 1 - place
        # From the line that the head tells on; what lies before it is ``verify``'s.
        try:
            for number, line_mac, end in _lines(self.path, self._key, trusted=seq):
                self._seq, self._mac, self._end = number, line_mac, end
                if number == seq and not hmac.compare_digest(line_mac, mac):
                    raise _changed(self.path, number)
        except AuditBroken as error:
            # A line that was not synced may be anything after a crash.
            if error.details["line"] <= seq:
                raise
            log.warning("The audit log is cut off after line %d, where a crash damaged it.", self._seq)
        if self._seq < seq:
            raise AuditBroken(
                f"{self.path} ends with line {self._seq}; {seq} were written. Look at it with `likeness audit verify`.",
                {"line": self._seq + 1},
            )
        rest = self._file.read(self._end, content_end - self._end)
        if rest.strip(b"\n"):
            # In place, so that the room is not lost to somebody else.
            self._file.write(self._end, b"\n" * len(rest))
        self._size = content_end
        # Also with no line yet: from now on a head that is missing is one that was removed.
        self._synced = -1
        self.sync()

    def _write(self, line: bytes, deletes: bool) -> None:
        self._make_room()
        if self._size - self._end < len(line) + (0 if deletes else LAST_ROOM_BYTES):
            raise InsufficientStorage(f"The disk that holds the audit log {self.path} is full. Make room.")
        try:
            self._file.write(self._end, line)
        except OSError as error:
            raise Unavailable(f"The audit log {self.path} cannot be written: {error}") from error
        self._end += len(line)

    def _make_room(self) -> bool:
        """Hold at least half of the room, and all of it where it has to be taken anew; whether that went well."""
        if self._size - self._end >= ROOM_BYTES // 2 + LAST_ROOM_BYTES // 2:
            return True
        try:
            self._file.write(self._size, b"\n" * (self._end + ROOM_BYTES - self._size))
        except OSError as error:
            if error.errno not in _FULL:
                raise Unavailable(f"The audit log {self.path} cannot be written: {error}") from error
            return False
        finally:
            self._size = self._file.size()
        return True


@dataclass(frozen=True)
class Verified:
    """How many lines there are, and number and mac of the last, to be kept elsewhere."""

    lines: int
    head: str


def verify(folder: Path, key: bytes, receipt: str | None = None) -> Verified:
    """Read the whole log, also while the service writes it.

    Args:
        receipt: ``seq:mac`` of a line that has to be in it.

    Raises:
        AuditBroken: a line was removed or changed; it names the first that is not as written.
    """
    path, head = folder / LOG_NAME, folder / HEAD_NAME
    if not path.exists() or not head.exists():
        raise AuditBroken(f"There is no audit log in {folder}.", {"line": 1})
    seq, mac, _ = _read_head(key, head.read_bytes(), path.stat().st_size)
    last, last_mac = 0, _genesis(key)
    found = receipt is None
    for number, line_mac, _ in _lines(path, key, trusted=None):
        last, last_mac = number, line_mac
        if number == seq and not hmac.compare_digest(line_mac, mac):
            raise _changed(path, number)
        found = found or receipt == f"{number}:{line_mac.hex()}"
    if last < seq:
        raise AuditBroken(f"{path} ends with line {last}; {seq} were written.", {"line": last + 1})
    if not found:
        raise AuditBroken(f"{path} has no line {receipt}.")
    return Verified(last, f"{last}:{last_mac.hex()}")


def _lines(path: Path, key: bytes, trusted: int | None) -> Iterator[tuple[int, bytes, int]]:
    """Number and mac of each line, and where it ends.

    Left out are the blank lines that hold room, and a line that is cut off at the end.

    Args:
        trusted: up to this line macs are taken as they are; None: all are computed.
    """
    before, end = _genesis(key), 0
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if line == b"\n" or not line.endswith(b"\n"):
                return
            end += len(line)
            tail = _TAIL.fullmatch(line[-75:-1])
            body = line[:-75]
            expected = f'{{"seq":{number},'.encode()
            sound = tail is not None and body.startswith(expected)
            if sound and (trusted is None or number > trusted):
                sound = hmac.compare_digest(_mac(key, before, body), bytes.fromhex(tail[1].decode()))  # type: ignore[index]
            if not sound or tail is None:
                raise _changed(path, number)
            before = bytes.fromhex(tail[1].decode())
            yield number, before, end


def _mac(key: bytes, before: bytes, body: bytes) -> bytes:
    return hmac.digest(key, before + body, hashlib.sha256)


def _genesis(key: bytes) -> bytes:
    return hmac.digest(key, b"the first line", hashlib.sha256)


def _head(key: bytes, seq: int, mac: bytes) -> bytes:
    content = struct.pack(">Q32s", seq, mac)
    return content + hmac.digest(key, b"head" + content, hashlib.sha256)


def _read_head(key: bytes, content: bytes, log_size: int) -> tuple[int, bytes, int]:
    """Number and mac of the last line that was synced, and in which place that stood."""
    if not content and log_size == 0:
        return 0, _genesis(key), 1
    found = []
    for place, offset in enumerate(_HEAD_PLACES):
        part = content[offset : offset + _HEAD.size]
        if len(part) == _HEAD.size:
            seq, mac, _ = _HEAD.unpack(part)
            if hmac.compare_digest(part, _head(key, seq, mac)):
                found.append((int(seq), mac, place))
    if not found:
        raise AuditBroken(f"{HEAD_NAME}, which tells where the audit log ends, was removed or changed.", {"line": 1})
    return max(found)


def _changed(path: Path, number: int) -> AuditBroken:
    return AuditBroken(f"Line {number} of {path} was changed, or one before it was removed.", {"line": number})
