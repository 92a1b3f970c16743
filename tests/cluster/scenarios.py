"""What happens to PostgreSQL: it is restarted, or its primary is killed and the standby takes over."""

from pathlib import Path

from tests.cluster.run import Outcome, Plan, run
from tests.cluster.standby import pair
from tests.cluster.told import Told
from tests.postgres_server import ROLE, PostgresServer, postgres_running

DATABASE = "faces"


def restarted(bundle: Path, seconds: float, seed: int, settings: dict[str, str]) -> Outcome:
    """One server, stopped and started again."""
    with postgres_running() as server:

        def halfway(told: Told) -> None:
            with told.database_away():
                server.stop()
                server.start()

        _make_database(server)
        return run(Plan("PostgreSQL restarted", server.url(DATABASE), halfway, 0, bundle, seconds, seed, settings))


def failed_over(bundle: Path, seconds: float, seed: int, settings: dict[str, str]) -> Outcome:
    """A primary that is killed, and its synchronous standby, which takes over; replicas know both."""
    with pair() as (primary, standby):

        def halfway(told: Told) -> None:
            with told.database_away():
                primary.kill()
                standby.promote()

        _make_database(primary)
        hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        url = f"postgresql://{ROLE}:{primary.password}@{hosts}/{DATABASE}?target_session_attrs=read-write"
        return run(Plan("primary killed, standby promoted", url, halfway, 1, bundle, seconds, seed, settings))


def _make_database(server: PostgresServer) -> None:
    with server.connect() as connection:
        connection.execute(f"CREATE DATABASE {DATABASE} OWNER {ROLE}")
    with server.connect(DATABASE) as connection:
        connection.execute("CREATE EXTENSION vector")
