"""The audit log of one data folder: ``audit.log``, one line after the other, and ``audit.head``.

The head has two places that are written in turn, so that a crash damages one at most. Lines that changed something are
on the disk before the answer is sent; those of reads and searches within a second.
"""

import errno
import hmac
import logging
import os
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

from service.errors import InsufficientStorage, Unavailable
from service.files import make_private_file, make_private_folder
from service.security.audit_log import (
    HEAD,
    AuditBroken,
    Event,
    Link,
    Receipt,
    Verified,
    chained,
    changed,
    checked,
    first,
    now,
    opened_head,
    sealed_head,
    verified,
)
from service.security.raw_file import RawFile

log = logging.getLogger(__name__)

LOG_NAME, HEAD_NAME = "audit.log", "audit.head"
# Blank lines that follow the last one hold room on the disk: when it is full some thousand searches can still be told
# of, and after them, with the rest, some thousand deletions.
ROOM_BYTES, LAST_ROOM_BYTES = 3 * 2**19, 2**19
_HEAD_PLACES = (0, 512)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class AuditFile:
    """The log of one data folder, open for writing. Thread-safe."""

    needs_sync = True

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
        self._last, self._end, self._size = first(key), 0, 0
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
            at = now()
            link = chained(self._key, self._last, at, event)
            self._write(link.line + b"\n", deletes)
            self._last = link
        if durable:
            self.sync(link.seq)
        return Receipt(link.seq, at, link.mac.hex())

    def sync(self, upto: int | None = None) -> None:
        """See to it that the lines up to ``upto`` (None: all) are on the disk. Callers that wait together share it."""
        with self._syncing:
            if self._synced >= (self._last.seq if upto is None else upto):
                return
            with self._writing:
                last = self._last
            self._file.sync()
            self._head.write(_HEAD_PLACES[self._place], sealed_head(self._key, last))
            self._head.sync()
            self._place = 1 - self._place
            self._synced = last.seq

    def close(self) -> None:
        """Sync and close."""
        self.sync()
        os.truncate(self.path, self._end)
        self._file.close()
        self._head.close()

    def _resume(self) -> None:
        content_end = self._file.size()
        head, place = _read_head(self._key, self._head.read(0, 1024), content_end)
        self._place = 1 - place
        # From the line that the head tells on; what lies before it is ``verify``'s.
        try:
            for link in checked(_lines(self.path), self._key, str(self.path), trusted=head.seq):
                self._last, self._end = link, self._end + len(link.line) + 1
                if link.seq == head.seq and not hmac.compare_digest(link.mac, head.mac):
                    raise changed(str(self.path), link.seq)
        except AuditBroken as error:
            # A line that was not synced may be anything after a crash.
            if error.details["line"] <= head.seq:
                raise
            log.warning("The audit log is cut off after line %d, where a crash damaged it.", self._last.seq)
        if self._last.seq < head.seq:
            raise AuditBroken(
                f"{self.path} ends with line {self._last.seq}; {head.seq} were written. "
                "Look at it with `likeness audit verify`.",
                {"line": self._last.seq + 1},
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
    last, _ = _read_head(key, head.read_bytes(), path.stat().st_size)
    return verified(read(folder, key), last, str(path), receipt)


def read(folder: Path, key: bytes) -> Generator[Link, None, None]:
    """All lines, checked. Raises AuditBroken."""
    path = folder / LOG_NAME
    return checked(_lines(path), key, str(path))


def _lines(path: Path) -> Iterator[bytes]:
    """Without the blank lines that hold room, and without a line that is cut off at the end."""
    with path.open("rb") as stream:
        for line in stream:
            if line == b"\n" or not line.endswith(b"\n"):
                return
            yield line[:-1]


def _read_head(key: bytes, content: bytes, log_size: int) -> tuple[Link, int]:
    """The last line that was synced, and in which place that stood."""
    if not content and log_size == 0:
        return first(key), 1
    found = []
    for place, offset in enumerate(_HEAD_PLACES):
        last = opened_head(key, content[offset : offset + HEAD.size])
        if last is not None:
            found.append((last.seq, last, place))
    if not found:
        raise AuditBroken(f"{HEAD_NAME}, which tells where the audit log ends, was removed or changed.", {"line": 1})
    _, last, place = max(found, key=lambda entry: (entry[0], entry[2]))
    return last, place
