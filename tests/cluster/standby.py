"""A synchronous standby of a ``PostgresServer``: what is committed has been applied there too."""

from collections.abc import Iterator
from contextlib import contextmanager

from psycopg.conninfo import make_conninfo

from tests.postgres_server import SUPERUSER, PostgresServer, postgres_running

NAME = "standby"


class Standby(PostgresServer):
    """Follows ``primary`` until it is promoted."""

    def follow(self, primary: PostgresServer) -> None:
        """Copy it, start, and make it wait for this one with every commit."""
        self.password = primary.password
        where = make_conninfo(
            host="127.0.0.1",
            port=primary.port,
            user=SUPERUSER,
            password=primary.password,
            application_name=NAME,
        )
        options = ("-R", "-X", "stream", "-c", "fast", "-C", "-S", NAME)
        self.run("pg_basebackup", "-D", self.data, "-d", where, *options)
        self.start()
        with primary.connect() as connection:
            connection.execute("ALTER SYSTEM SET synchronous_commit = 'remote_apply'")
            connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{NAME}'")
            connection.execute("SELECT pg_reload_conf()")
            while not connection.execute(
                "SELECT 1 FROM pg_stat_replication WHERE application_name = %s AND sync_state = 'sync'", (NAME,)
            ).fetchone():
                connection.execute("SELECT pg_sleep(0.05)")

    def promote(self) -> None:
        """From now on it takes writes, and waits for nobody."""
        with self.connect() as connection:
            assert connection.execute("SELECT pg_promote(true, 60)").fetchone() == (True,)


@contextmanager
def pair() -> Iterator[tuple[PostgresServer, Standby]]:
    """A primary and its synchronous standby."""
    with postgres_running() as primary:
        standby = Standby()
        try:
            standby.follow(primary)
            yield primary, standby
        finally:
            standby.remove()
