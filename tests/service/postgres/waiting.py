"""What a test waits for, of PostgreSQL and of what goes on in the background."""

import time
from collections.abc import Callable

from tests.postgres_server import PostgresServer


def wait_for(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.02)


def listening(server: PostgresServer, url: str) -> int:
    """Replicas that hear of changes."""
    return len(_backends(server, url, "query LIKE 'LISTEN%%'"))


def wait_for_waiting(server: PostgresServer, url: str, count: int) -> None:
    """Until so many connections to the database wait for a lock."""
    wait_for(lambda: len(_backends(server, url, "wait_event_type = 'Lock'")) == count)


def cut_waiting(server: PostgresServer, url: str) -> None:
    """Cut off whoever waits for a lock of the database, as soon as somebody does."""
    wait_for_waiting(server, url, 1)
    with server.connect() as connection:
        for number in _backends(server, url, "wait_event_type = 'Lock'"):
            connection.execute("SELECT pg_terminate_backend(%s)", [number])


def _backends(server: PostgresServer, url: str, which: str) -> list[object]:
    query = f"SELECT pid FROM pg_stat_activity WHERE datname = %s AND {which}"
    with server.connect() as connection:
        return [row[0] for row in connection.execute(query.encode(), [url.rsplit("/", 1)[1]])]
