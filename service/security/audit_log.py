"""Who did what to which person and when: lines that are chained, so that none can be taken out or changed unnoticed.

A line is JSON: ``seq`` (1, 2, …), ``at`` (UTC), ``actor`` (id of an access key; ``retention``; ``no-auth``),
``action``, ``gallery``, ``person``, ``face``, ``status`` (of the HTTP answer), ``request_id``, ``details``, and
``mac``, which is HMAC-SHA256 over the mac of the line before and this line's own bytes. Its key comes of the service's
secret, so that nobody without the master key can write a chain that verifies. No images, no embeddings, no names.

A head holds number and mac of the last line, with a mac of its own: lines that are taken from the end are missed by
it. Where lines and head are kept is another room's: ``audit_file``, or ``service.postgres.audit`` for all replicas of
a service.
"""

import hashlib
import hmac
import json
import re
import struct
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from service.errors import Unavailable

PURPOSE = "audit log"
HEAD = struct.Struct(">Q32s32s")
_TAIL = re.compile(rb',"mac":"([0-9a-f]{64})"\}')
# ``,"mac":"``, 64 digits and ``"}``.
_TAIL_BYTES = 74


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


class AuditLog(Protocol):
    """A log that is open for writing. Thread-safe."""

    @property
    def needs_sync(self) -> bool:
        """Whether somebody has to call ``sync`` every second, for the lines that are not written at once."""

    def require_room(self) -> None:
        """Raises Unavailable or InsufficientStorage when a change could not be told of; to be asked before it."""

    def append(self, event: Event, durable: bool, deletes: bool = False) -> Receipt | None:
        """Add a line.

        Args:
            durable: return when it is written for good, with its receipt; else that is so after the next ``sync``.
            deletes: a part of the room is for such lines alone.

        Raises:
            Unavailable, InsufficientStorage: it could not be written.
        """

    def sync(self) -> None:
        """See to it that all lines are written for good."""

    def close(self) -> None:
        """Sync and close."""


@dataclass(frozen=True)
class Link:
    """A line of the chain: its number, its mac, and its bytes without the end of the line."""

    seq: int
    mac: bytes
    line: bytes

    @property
    def receipt(self) -> str:
        return f"{self.seq}:{self.mac.hex()}"


@dataclass(frozen=True)
class Verified:
    """How many lines there are, and number and mac of the last, to be kept elsewhere."""

    lines: int
    head: str


def now() -> str:
    """The time as lines tell it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def first(key: bytes) -> Link:
    """What the first line is chained to."""
    return Link(0, hmac.digest(key, b"the first line", hashlib.sha256), b"")


def chained(key: bytes, before: Link, at: str, event: Event) -> Link:
    """The line that tells of ``event`` after ``before``."""
    seq = before.seq + 1
    told = {"seq": seq, "at": at, **{k: v for k, v in vars(event).items() if v is not None and v != {}}}
    # On a line of its own whatever is in it: JSON escapes what breaks lines.
    body = json.dumps(told, separators=(",", ":"), allow_nan=False).encode()[:-1]
    mac = _mac(key, before.mac, body)
    return Link(seq, mac, body + b',"mac":"' + mac.hex().encode() + b'"}')


def checked(lines: Iterable[bytes], key: bytes, where: str, trusted: int = 0) -> Generator[Link, None, None]:
    """Each line, once it is known to be as it was written.

    Args:
        lines: without their ends.
        where: names the log in errors.
        trusted: up to this line macs are taken as they are.

    Raises:
        AuditBroken: a line was changed, or one before it removed.
    """
    before = first(key).mac
    for seq, line in enumerate(lines, start=1):
        body, tail = line[:-_TAIL_BYTES], _TAIL.fullmatch(line[-_TAIL_BYTES:])
        if tail is None or not body.startswith(f'{{"seq":{seq},'.encode()):
            raise changed(where, seq)
        mac = bytes.fromhex(tail[1].decode())
        if seq > trusted and not hmac.compare_digest(_mac(key, before, body), mac):
            raise changed(where, seq)
        before = mac
        yield Link(seq, mac, line)


def verified(links: Iterable[Link], head: Link, where: str, receipt: str | None = None) -> Verified:
    """Go through a whole log.

    Args:
        head: what it says of its last line; lines that came after that may follow.
        receipt: ``seq:mac`` of a line that has to be in it.

    Raises:
        AuditBroken: it names the first line that is not as written.
    """
    count, last, found = 0, head.receipt, receipt is None
    for link in links:
        count, last = link.seq, link.receipt
        if link.seq == head.seq and not hmac.compare_digest(link.mac, head.mac):
            raise changed(where, link.seq)
        found = found or receipt == last
    if count < head.seq:
        raise AuditBroken(f"{where} ends with line {count}; {head.seq} were written.", {"line": count + 1})
    if not found:
        raise AuditBroken(f"{where} has no line {receipt}.")
    return Verified(count, last)


def sealed_head(key: bytes, last: Link) -> bytes:
    """The head of a log that ends with ``last``."""
    content = struct.pack(">Q32s", last.seq, last.mac)
    return content + hmac.digest(key, b"head" + content, hashlib.sha256)


def opened_head(key: bytes, content: bytes) -> Link | None:
    """The last line, as a head tells it; None if the head was changed."""
    if len(content) != HEAD.size:
        return None
    seq, mac, _ = HEAD.unpack(content)
    last = Link(int(seq), mac, b"")
    return last if hmac.compare_digest(content, sealed_head(key, last)) else None


def changed(where: str, seq: int) -> AuditBroken:
    """The error of a line that is not as it was written."""
    return AuditBroken(f"Line {seq} of {where} was changed, or one before it was removed.", {"line": seq})


def _mac(key: bytes, before: bytes, body: bytes) -> bytes:
    return hmac.digest(key, before + body, hashlib.sha256)
