"""Access keys in PostgreSQL: what one process changes all know within a second, and nobody forges a row."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import anyio
import pytest
from sqlalchemy import Engine, text

from service.errors import InvalidRequest, Unauthorized
from service.postgres import access
from service.postgres.access import OLDEST_S, PostgresAccessKeys
from service.postgres.database import open_postgres
from service.postgres.failures import DatabaseAway
from service.security.access_keys import SCOPES, Rights
from tests.postgres_server import PostgresServer

PEPPER = bytes(range(32))
ALL = Rights(frozenset(SCOPES), "first", frozenset({"staff"}), rate_per_minute=3)


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    engine = open_postgres(postgres_url)
    yield engine
    engine.dispose()


@contextmanager
def following(engine: Engine) -> Iterator[PostgresAccessKeys]:
    """The keys, as a running replica has them."""
    keys = PostgresAccessKeys(engine, PEPPER)
    keys.follow()
    try:
        yield keys
    finally:
        keys.close()


def seconds_until_refused(keys: PostgresAccessKeys, key: str) -> float:
    start = time.monotonic()
    while time.monotonic() - start < 5:
        try:
            keys.find(key)
        except Unauthorized:
            return time.monotonic() - start
        time.sleep(0.01)
    pytest.fail("the key is still known")


def test_keys_are_made_found_rotated_and_revoked(engine: Engine) -> None:
    keys = PostgresAccessKeys(engine, PEPPER)
    first, opens = keys.create(ALL)
    assert keys.find(opens) == first
    second, opens_too = keys.rotate(first.id, timedelta(hours=1))
    assert [key.id for key in PostgresAccessKeys(engine, PEPPER).all()] == [first.id, second.id]
    assert keys.find(opens).expires_at is not None
    assert keys.find(opens_too).galleries == {"staff"}
    keys.revoke(first.id)
    with pytest.raises(Unauthorized):
        keys.find(opens)
    with pytest.raises(InvalidRequest, match="no access key"):
        keys.revoke(first.id)
    with engine.connect() as connection:
        kept = str(connection.execute(text("SELECT * FROM access_keys")).all())
    assert second.id in kept
    assert opens_too not in kept


def test_a_running_replica_refuses_a_revoked_key_within_a_second(engine: Engine) -> None:
    operator = PostgresAccessKeys(engine, PEPPER)
    record, key = operator.create(ALL)
    with following(engine) as one, following(engine) as other:
        assert one.find(key) == other.find(key) == record
        operator.revoke(record.id)
        assert seconds_until_refused(one, key) <= OLDEST_S
        assert seconds_until_refused(other, key) <= OLDEST_S


def test_finding_a_key_asks_the_database_nothing(engine: Engine) -> None:
    with following(engine) as keys:
        _, key = keys.create(ALL)
        with engine.connect() as connection:
            # Whoever asks for the table now waits.
            connection.execute(text("LOCK TABLE access_keys IN ACCESS EXCLUSIVE MODE"))
            for _ in range(100):
                keys.find(key)


def test_a_replica_that_cannot_ask_knows_of_no_key_until_it_can(
    postgres_server: PostgresServer, migrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "PATIENCE_S", 0.5)
    with postgres_server.database(template=migrated) as name:
        engine = open_postgres(postgres_server.url(name))
        with following(engine) as keys:
            _, key = keys.create(ALL)
            with postgres_server.connect() as connection:
                connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
                connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
                lost = time.monotonic()
                while True:
                    try:
                        keys.find(key)
                    except DatabaseAway:
                        break
                    assert time.monotonic() - lost < OLDEST_S + 0.2
                    time.sleep(0.01)
                start = time.monotonic()
                with pytest.raises(DatabaseAway):
                    anyio.run(keys.in_step)
                assert time.monotonic() - start < 1
                connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
            anyio.run(keys.in_step)
            keys.find(key)
        engine.dispose()


def test_a_row_that_was_changed_or_made_by_hand_opens_nothing(engine: Engine) -> None:
    keys = PostgresAccessKeys(engine, PEPPER)
    record, key = keys.create(ALL)
    _, other = keys.create(ALL)
    wider = json.dumps({**json.loads(record.model_dump_json()), "galleries": None})
    with engine.begin() as connection:
        connection.execute(text("UPDATE access_keys SET record = :r WHERE id = :id"), {"r": wider, "id": record.id})
        connection.execute(text("UPDATE access_keys_stamp SET stamp = gen_random_uuid()"))
    with pytest.raises(Unauthorized):
        keys.find(key)
    keys.find(other)
    with pytest.raises(Unauthorized):
        PostgresAccessKeys(engine, bytes(32)).find(other)


def test_keys_that_are_made_at_the_same_time_are_all_there(engine: Engine) -> None:
    def make() -> None:
        for _ in range(3):
            PostgresAccessKeys(engine, PEPPER).create(ALL)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(PostgresAccessKeys(engine, PEPPER).all()) == 12


def test_of_many_who_would_make_the_first_key_one_does(engine: Engine) -> None:
    made: list[object] = []
    ready = threading.Barrier(4)

    def make() -> None:
        ready.wait()
        made.append(PostgresAccessKeys(engine, PEPPER).create_first(ALL))

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made.count(None) == 3
