"""The chain in PostgreSQL: of many replicas one log, in which every removed, changed or moved line is found."""

import json
import re
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import DBAPIError

from service.errors import Unavailable
from service.postgres import audit as audit_room
from service.postgres.audit import PostgresAuditLog, read, verify
from service.postgres.database import open_postgres
from service.security.audit_log import AuditBroken, Event
from service.security.erasures import Erasure, erasures
from tests.postgres_server import PostgresServer

ROOT = Path(__file__).resolve().parents[3]
KEY = bytes(range(32))


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    engine = open_postgres(postgres_url)
    yield engine
    engine.dispose()


@pytest.fixture
def log(engine: Engine) -> Iterator[PostgresAuditLog]:
    log = PostgresAuditLog(engine, KEY)
    yield log
    log.close()


def lines(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.scalars(text("SELECT line FROM audit_lines ORDER BY seq")))


def test_lines_are_those_of_the_log_in_a_file(engine: Engine, log: PostgresAuditLog) -> None:
    assert verify(engine, KEY).lines == 0
    receipt = log.append(Event("key1", "delete_person", "g", "p\n1", status=204, request_id="r"), durable=True)
    assert log.append(Event("key2", "search", "g", details={"found": ["a", "b"]}), durable=False) is None
    assert receipt is not None
    assert verify(engine, KEY, str(receipt)).lines == 1
    log.sync()
    first, second = map(json.loads, lines(engine))
    assert first.pop("mac") == receipt.mac
    assert first == {
        "seq": 1,
        "at": receipt.at,
        "actor": "key1",
        "action": "delete_person",
        "gallery": "g",
        "person": "p\n1",
        "status": 204,
        "request_id": "r",
    }
    assert second["details"] == {"found": ["a", "b"]}
    with pytest.raises(AuditBroken, match="no line 9:00"):
        verify(engine, KEY, "9:00")
    with pytest.raises(AuditBroken):
        verify(engine, bytes(32))
    with pytest.raises(AuditBroken):
        PostgresAuditLog(engine, bytes(32))


def test_a_line_of_a_read_is_there_within_a_second(engine: Engine, log: PostgresAuditLog) -> None:
    log.append(Event("key1", "search", "g"), durable=False)
    time.sleep(1)
    assert len(lines(engine)) == 1


def test_every_kind_of_tampering_is_found(engine: Engine, log: PostgresAuditLog) -> None:
    for n in range(6):
        log.append(Event("key1", "search", "g", details={"found": [f"p{n}"]}), durable=n == 5)
    assert verify(engine, KEY).lines == 6
    for named, tampering in (
        (3, "UPDATE audit_lines SET line = replace(line, 'p2', 'px') WHERE seq = 3"),
        (3, "DELETE FROM audit_lines WHERE seq = 3"),
        # Taken out, and the others moved up.
        (3, "DELETE FROM audit_lines WHERE seq = 3; UPDATE audit_lines SET seq = seq - 1 WHERE seq > 3"),
        (1, "UPDATE audit_lines SET seq = 100 WHERE seq = 1"),
        (6, "DELETE FROM audit_lines WHERE seq = 6"),
        (1, "DELETE FROM audit_lines"),
        (7, "INSERT INTO audit_lines SELECT 7, line FROM audit_lines WHERE seq = 6"),
        (1, "UPDATE audit_head SET seal = sha256(seal)"),
        (1, "DELETE FROM audit_head"),
    ):
        with engine.connect() as connection:
            undone = connection.begin()
            connection.exec_driver_sql(tampering)
            # By the connection that has done it: nobody else sees it.
            with pytest.raises(AuditBroken) as broken:
                audit_room._verified(connection, KEY, None)
            assert broken.value.details["line"] == named, tampering
            undone.rollback()
    verify(engine, KEY)


def test_an_older_head_is_found_out(engine: Engine, log: PostgresAuditLog) -> None:
    log.append(Event("x", "delete_person"), durable=True)
    with engine.begin() as connection:
        older = connection.scalar(text("SELECT seal FROM audit_head"))
    log.append(Event("x", "delete_person"), durable=True)
    with engine.begin() as connection:
        connection.execute(text("UPDATE audit_head SET seal = :seal"), {"seal": older})
    with pytest.raises(AuditBroken, match="Line 2"):
        verify(engine, KEY)
    with pytest.raises(AuditBroken):
        PostgresAuditLog(engine, KEY)
    # A replica that runs does not write a second line 2 either.
    with pytest.raises(Unavailable):
        log.append(Event("x", "delete_person"), durable=True)
    with pytest.raises(Unavailable):
        log.require_room()


def test_lines_that_wait_together_are_one_transaction_and_replicas_make_one_chain(engine: Engine) -> None:
    commits: list[int] = []
    event.listen(engine, "commit", lambda _: commits.append(1))
    replicas = [PostgresAuditLog(engine, KEY) for _ in range(3)]

    def work(name: str, log: PostgresAuditLog) -> None:
        for n in range(20):
            log.append(Event(name, "search"), durable=n % 2 == 0)

    threads = [threading.Thread(target=work, args=(f"t{n}", replicas[n % 3])) for n in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for replica in replicas:
        replica.close()
    assert verify(engine, KEY).lines == 24 * 20
    assert len(commits) < 24 * 10 / 2
    # Each thread's lines are in the order in which it told them.
    told = [json.loads(line) for line in lines(engine)]
    assert all(
        sorted(times) == times for times in ([t["at"] for t in told if t["actor"] == f"t{n}"] for n in range(24))
    )


def test_a_commit_whose_answer_was_lost_is_not_written_twice(engine: Engine, log: PostgresAuditLog) -> None:
    log.append(Event("x", "first"), durable=True)
    lost, original = iter([True]), engine.dialect.do_commit

    def commit(connection: Any) -> None:
        original(connection)
        if next(lost, False):
            raise psycopg.OperationalError("the answer to the commit was lost")

    engine.dialect.do_commit = commit  # type: ignore[method-assign, assignment]
    try:
        with pytest.raises(Unavailable):
            log.append(Event("x", "second"), durable=True)
        deadline = time.monotonic() + 5
        while True:
            try:
                log.append(Event("x", "third"), durable=True)
                break
            except Unavailable:
                assert time.monotonic() < deadline
                time.sleep(0.1)
    finally:
        engine.dialect.do_commit = original  # type: ignore[method-assign]
    actions = [json.loads(line)["action"] for line in lines(engine)]
    assert actions[:2] == ["first", "second"]
    assert actions.count("second") == 1
    verify(engine, KEY)


def test_lines_wait_while_the_database_is_away_and_nothing_is_changed_meanwhile(
    postgres_server: PostgresServer, migrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_room, "MOST", 5)
    monkeypatch.setattr(audit_room, "MOST_LAST", 2)
    with postgres_server.database(template=migrated) as name, postgres_server.connect() as connection:
        engine = open_postgres(postgres_server.url(name))
        log = PostgresAuditLog(engine, KEY)
        log.require_room()
        connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        with pytest.raises(Unavailable):
            log.append(Event("x", "delete_person"), durable=True)
        with pytest.raises(Unavailable):
            log.require_room()
        for n in range(8):
            with pytest.raises(Unavailable):
                log.append(Event("x", "search" if n < 5 else "delete_person"), durable=False, deletes=n >= 5)
        connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        log.sync()
        log.require_room()
        assert verify(engine, KEY).lines == 5 + 2
        log.close()
        engine.dispose()


def test_deletions_since_a_time_are_listed(engine: Engine, log: PostgresAuditLog) -> None:
    start = datetime.now(UTC).replace(microsecond=0)
    log.append(Event("x", "delete_person", "g", "failed", status=404), durable=True)
    log.append(Event("x", "delete_person", "g", "early", status=204), durable=True)
    time.sleep(0.01)
    middle = datetime.now(UTC)
    time.sleep(0.01)
    for told in (
        Event("x", "search", "g", details={"identified": ['"action":"delete_person"']}, status=200),
        Event("retention", "delete_person", "g", "late", status=204),
        Event("x", "delete_face", "g", "ann", "f1", status=200),
        Event("x", "delete_gallery", "h", status=204),
    ):
        log.append(told, durable=True)
    late = list(erasures(read(engine, KEY), middle))
    assert [(found.gallery, found.person, found.face) for found in late] == [
        ("g", "late", None),
        ("g", "ann", "f1"),
        ("h", None, None),
    ]
    assert all(isinstance(found, Erasure) and middle <= found.at <= middle + timedelta(seconds=60) for found in late)
    assert len(list(erasures(read(engine, KEY), start))) == 4


def test_the_role_needs_no_right_to_change_lines(postgres_server: PostgresServer, migrated: str) -> None:
    """As docs/postgres.md advises."""
    advice = re.findall(r"```sql\n(ALTER TABLE audit_lines.*?)```", (ROOT / "docs" / "postgres.md").read_text(), re.S)
    with postgres_server.database(template=migrated) as name:
        engine = open_postgres(postgres_server.url(name))
        PostgresAuditLog(engine, KEY).close()
        with postgres_server.connect(name) as connection:
            for statement in advice[0].strip().split(";")[:-1]:
                connection.execute(statement)
        log = PostgresAuditLog(engine, KEY)
        log.append(Event("x", "delete_person"), durable=True)
        log.close()
        for tampering in ("UPDATE audit_lines SET line = ''", "DELETE FROM audit_lines", "TRUNCATE audit_lines"):
            with pytest.raises(DBAPIError, match="permission denied"), engine.begin() as connection:
                connection.execute(text(tampering))
        assert verify(engine, KEY).lines == 1
        engine.dispose()
