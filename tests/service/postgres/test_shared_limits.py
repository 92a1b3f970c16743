"""Limits of access keys that are counted in PostgreSQL: N is N, however many replicas ask."""

import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import anyio
import pytest
from sqlalchemy import Engine, text

from service.errors import RateLimited
from service.postgres import limits as limits_room
from service.postgres.database import open_postgres
from service.postgres.failures import DatabaseAway
from service.postgres.limits import PostgresLimits
from service.security.access_keys import AccessKey
from tests.postgres_server import PostgresServer


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    engine = open_postgres(postgres_url)
    yield engine
    engine.dispose()


@pytest.fixture
def replicas(engine: Engine) -> Iterator[list[PostgresLimits]]:
    """Three that know nothing of each other."""
    found = [PostgresLimits(engine) for _ in range(3)]
    yield found
    for limits in found:
        limits.close()


def key(id: str = "k", rate: int | None = None, concurrency: int | None = None) -> AccessKey:
    made = datetime.now(UTC)
    return AccessKey(
        id=id, digest="", scopes=frozenset(), created_at=made, rate_per_minute=rate, concurrency=concurrency
    )


async def asked(limits: PostgresLimits, of: AccessKey) -> bool:
    try:
        async with limits.admitted(of):
            return True
    except RateLimited:
        return False


def test_a_minutes_requests_are_counted_over_all_replicas(replicas: list[PostgresLimits], engine: Engine) -> None:
    async def ask() -> None:
        answers: list[bool] = []

        async def one(limits: PostgresLimits) -> None:
            answers.append(await asked(limits, key(rate=20)))

        start = time.monotonic()
        async with anyio.create_task_group() as group:
            for n in range(90):
                group.start_soon(one, replicas[n % 3])
        # One comes back every three seconds.
        assert 20 <= sum(answers) <= 20 + (time.monotonic() - start) / 3
        with pytest.raises(RateLimited) as refused:
            async with replicas[0].admitted(key(rate=20)):
                pass
        assert 1 <= refused.value.details["retry_after_s"] <= 3
        assert await asked(replicas[0], key("other", rate=20))
        with engine.begin() as connection:
            connection.execute(text("UPDATE key_uses SET at = at - interval '6 s'"))
        assert [await asked(limits, key(rate=20)) for limits in replicas] == [True, True, False]

    anyio.run(ask)


def test_requests_inside_are_counted_over_all_replicas(replicas: list[PostgresLimits]) -> None:
    both = key(rate=5, concurrency=2)

    async def ask() -> None:
        async with AsyncExitStack() as inside:
            await inside.enter_async_context(replicas[0].admitted(both))
            async with replicas[1].admitted(both):
                # What is refused for the number inside is not counted for the rate.
                assert [await asked(limits, both) for limits in replicas * 2] == [False] * 6
            assert await asked(replicas[2], both)
        assert [await asked(replicas[0], both) for _ in range(3)] == [True, True, False]

    anyio.run(ask)


def test_places_of_a_replica_that_was_killed_lapse_and_those_of_one_that_lives_do_not(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits_room, "LEASE_S", 1.0)
    monkeypatch.setattr(limits_room, "EXTEND_S", 0.1)
    one = key(concurrency=1)

    async def ask() -> None:
        killed, lives = PostgresLimits(engine), PostgresLimits(engine)
        async with killed.admitted(one):
            killed.close()
            assert not await asked(lives, one)
            await anyio.sleep(1.05)
            async with lives.admitted(one):
                await anyio.sleep(1.3)
                assert not await asked(lives, one)
                # As after a crash of PostgreSQL, which empties the table.
                with engine.begin() as connection:
                    connection.execute(text("TRUNCATE key_uses"))
                await anyio.sleep(0.3)
                assert not await asked(lives, one)
        assert await asked(lives, one)
        lives.close()

    anyio.run(ask)


def test_without_the_database_nobody_is_let_in(postgres_server: PostgresServer, migrated: str) -> None:
    async def ask(url: str) -> None:
        engine = open_postgres(url)
        limits = PostgresLimits(engine)
        assert await asked(limits, key(rate=100, concurrency=100))
        with postgres_server.connect() as connection:
            connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        for limited in (key(rate=100), key(concurrency=100)):
            with pytest.raises(DatabaseAway):
                await asked(limits, limited)
        # It costs those nothing who have no limits.
        assert await asked(limits, key())
        with postgres_server.connect() as connection:
            connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        assert await asked(limits, key(rate=100, concurrency=100))
        limits.close()
        engine.dispose()

    with postgres_server.database(template=migrated) as name:
        anyio.run(ask, postgres_server.url(name))
