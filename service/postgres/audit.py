"""The audit log of all replicas: one chain, in a table.

The row of the head is locked from the moment a transaction reads it until it has committed, so that lines are chained
one after the other whichever replica tells them. Each replica writes with one thread: all lines that wait are one
transaction. Lines that changed something are committed before the answer is sent, those of reads and searches within
a second. Lines that could not be written wait, and are written when PostgreSQL is back; meanwhile nothing is changed
and nothing is read.
"""

import hmac
import logging
import threading
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLate
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice

from sqlalchemy import Connection, Engine, text

from service.errors import InsufficientStorage, LikenessError, Unavailable
from service.postgres.failures import DatabaseAway, storage_errors
from service.security.audit_log import (
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

log = logging.getLogger(__name__)

WHERE = "the audit log in the database"
# How long a line of a read waits for others, a change for its line, and a failed transaction for the next one.
FLUSH_S, PATIENCE_S, RETRY_S = 0.5, 10.0, 0.5
# Lines of one transaction; lines that may wait while PostgreSQL is away, and those that only deletions may add.
GROUP, MOST, MOST_LAST = 1000, 10_000, 2_000

# A replica that stands still must not hold the head for long.
_HEAD = text(
    "SELECT seal, set_config('idle_in_transaction_session_timeout', '5s', true) FROM audit_head FOR NO KEY UPDATE"
)
_WRITE = text("""
WITH told AS (
    INSERT INTO audit_lines (seq, line)
    SELECT seq, line FROM unnest(CAST(:seqs AS bigint[]), CAST(:lines AS text[])) AS told (seq, line)
)
UPDATE audit_head SET seal = :seal
""")


@dataclass
class _Waiting:
    """A line that is not written yet."""

    at: str
    event: Event
    urgent: bool
    written: Future[Receipt] = field(default_factory=Future)


class PostgresAuditLog:
    """See ``service.security.audit_log.AuditLog``. Thread-safe."""

    needs_sync = False

    def __init__(self, engine: Engine, key: bytes) -> None:
        """Go on with the log, begun if there is none; the engine is the caller's.

        Raises:
            AuditBroken: its end is not what was written last.
        """
        self._engine, self._key = engine, key
        with storage_errors(), engine.connect() as connection, connection.begin():
            _begin(connection, key)
        self._lines: deque[_Waiting] = deque()
        self._change = threading.Condition()
        self._failure: LikenessError | None = None
        # The last transaction, while it is not known whether it was committed.
        self._attempt: list[Link] = []
        self._closing = False
        # The process may end while PostgreSQL is silent and the thread waits for it.
        self._thread = threading.Thread(target=self._run, name="audit log", daemon=True)
        self._thread.start()

    def require_room(self) -> None:
        """Raises why the last lines could not be written, if they could not."""
        failure = self._failure
        if failure is not None:
            raise _like(failure)

    def append(self, event: Event, durable: bool, deletes: bool = False) -> Receipt | None:
        """Add a line; with ``durable`` it is committed when this returns, else within a second.

        Args:
            deletes: while PostgreSQL is away there is room for some more lines of these.

        Raises:
            Unavailable, InsufficientStorage: it could not be written yet; it will be when that is possible again.
        """
        with self._change:
            if self._closing or len(self._lines) >= MOST + (MOST_LAST if deletes else 0):
                raise Unavailable(
                    f"{len(self._lines)} lines wait for the audit log. Try again later.", {"retry_after_s": 1}
                )
            waiting = _Waiting(now(), event, durable)
            self._lines.append(waiting)
            written = waiting.written
            if durable or len(self._lines) >= GROUP:
                self._change.notify_all()
        self.require_room()
        return _result(written) if durable else None

    def sync(self) -> None:
        """Wait until all lines so far are committed. Raises as ``append``."""
        with self._change:
            if not self._lines:
                return
            self._lines[-1].urgent = True
            written = self._lines[-1].written
            self._change.notify_all()
        _result(written)

    def close(self) -> None:
        """Write what waits; what cannot be written is lost, which the log tells."""
        with self._change:
            self._closing = True
            self._change.notify_all()
        self._thread.join(PATIENCE_S)
        if self._lines:
            log.error("%d lines of the audit log could not be written.", len(self._lines))

    def _run(self) -> None:
        while True:
            with self._change:
                if self._failure is None:
                    self._change.wait_for(self._in_a_hurry, FLUSH_S)
                else:
                    self._change.wait_for(lambda: self._closing, RETRY_S)
                group = list(islice(self._lines, GROUP))
                if not group and self._closing:
                    return
            if group and not self._written(group) and self._closing:
                return

    def _in_a_hurry(self) -> bool:
        return self._closing or len(self._lines) >= GROUP or any(waiting.urgent for waiting in self._lines)

    def _written(self, group: Sequence[_Waiting]) -> bool:
        """Write the first lines that wait; those who wait for them are told."""
        try:
            links = self._write(group)
        except Exception as error:
            self._fail(group, error)
            return False
        if self._failure is not None:
            log.warning("The audit log can be written again.")
        self._failure = None
        with self._change:
            for _ in links:
                self._lines.popleft()
        for waiting, link in zip(group, links, strict=False):
            waiting.written.set_result(Receipt(link.seq, waiting.at, link.mac.hex()))
        return True

    def _write(self, group: Sequence[_Waiting]) -> Sequence[Link]:
        """One transaction; the lines that it wrote, which are the first of ``group``."""
        with storage_errors(), self._engine.connect() as connection, connection.begin():
            last = _locked_head(connection, self._key)
            attempt = self._attempt
            if attempt and _is_in(connection, attempt[-1]):
                self._attempt = []
                return attempt
            links = []
            for waiting in group:
                last = chained(self._key, last, waiting.at, waiting.event)
                links.append(last)
            values = {
                "seqs": [link.seq for link in links],
                "lines": [link.line.decode() for link in links],
                "seal": sealed_head(self._key, last),
            }
            self._attempt = links
            connection.execute(_WRITE, values)
        self._attempt = []
        return links

    def _fail(self, group: Sequence[_Waiting], error: Exception) -> None:
        if self._failure is None:
            log.error("The audit log cannot be written.", exc_info=error)
        if isinstance(error, LikenessError):
            self._failure = error
        else:
            self._failure = Unavailable("The audit log cannot be written; the log of the service tells why.")
        told = []
        with self._change:
            for waiting in group:
                told.append(waiting.written)
                waiting.written, waiting.urgent = Future(), False
        for written in told:
            written.set_exception(_like(self._failure))


def verify(engine: Engine, key: bytes, receipt: str | None = None) -> Verified:
    """Read the whole log, as it is at one moment, also while replicas write it.

    Args:
        receipt: ``seq:mac`` of a line that has to be in it.

    Raises:
        AuditBroken: a line was removed or changed; it names the first that is not as written.
    """
    reading = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    with storage_errors(), reading.connect() as connection:
        return _verified(connection, key, receipt)


def read(engine: Engine, key: bytes) -> Generator[Link, None, None]:
    """All lines, as they are at one moment, checked. Raises AuditBroken."""
    reading = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    with storage_errors(), reading.connect() as connection, closing(_lines(connection)) as lines:
        yield from checked(lines, key, WHERE)


def _like(failure: LikenessError) -> LikenessError:
    """The same for somebody else: an error that is raised again and again holds on to all who met it."""
    kind = InsufficientStorage if isinstance(failure, InsufficientStorage) else Unavailable
    return kind(failure.message, failure.details)


def _result(written: Future[Receipt]) -> Receipt:
    try:
        return written.result(PATIENCE_S)
    except TooLate:
        raise DatabaseAway from None


def _verified(connection: Connection, key: bytes, receipt: str | None) -> Verified:
    seal = connection.scalar(text("SELECT seal FROM audit_head"))
    if seal is None:
        raise AuditBroken(f"The head of {WHERE}, which tells where it ends, was removed.", {"line": 1})
    head = _opened(key, seal)
    with closing(_lines(connection)) as lines:
        found = verified(checked(lines, key, WHERE), head, WHERE, receipt)
    # Both are written together, so lines that follow the head tell of a head that was put back.
    if found.lines > head.seq:
        raise changed(WHERE, head.seq + 1)
    return found


def _begin(connection: Connection, key: bytes) -> None:
    """See to it that there is a head, and that the last line is the one that it tells."""
    if not connection.scalar(text("SELECT EXISTS (SELECT FROM audit_lines)")):
        start = text("INSERT INTO audit_head (one, seal) VALUES (true, :seal) ON CONFLICT DO NOTHING")
        connection.execute(start, {"seal": sealed_head(key, first(key))})
    head = _locked_head(connection, key)
    end = connection.scalar(text("SELECT max(seq) FROM audit_lines")) or 0
    if end != head.seq:
        raise AuditBroken(
            f"{WHERE} ends with line {end}; {head.seq} were written. Look at it with `likeness audit verify`.",
            {"line": min(end, head.seq) + 1},
        )
    if head.seq and not _is_in(connection, head):
        raise changed(WHERE, head.seq)


def _locked_head(connection: Connection, key: bytes) -> Link:
    seal = connection.scalar(_HEAD)
    if seal is None:
        raise AuditBroken(f"The head of {WHERE}, which tells where it ends, was removed.", {"line": 1})
    return _opened(key, seal)


def _opened(key: bytes, seal: bytes) -> Link:
    head = opened_head(key, bytes(seal))
    if head is None:
        raise AuditBroken(f"The head of {WHERE}, which tells where it ends, was changed.", {"line": 1})
    return head


def _is_in(connection: Connection, link: Link) -> bool:
    line = connection.scalar(text("SELECT line FROM audit_lines WHERE seq = :seq"), {"seq": link.seq})
    return line is not None and hmac.compare_digest(line[-66:-2].encode(), link.mac.hex().encode())


def _lines(connection: Connection) -> Generator[bytes, None, None]:
    reading = connection.execution_options(yield_per=GROUP)
    with reading.execute(text("SELECT line FROM audit_lines ORDER BY seq")) as rows:
        for (line,) in rows:
            yield line.encode()
