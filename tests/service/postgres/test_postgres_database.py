"""PostgreSQL is reached, migrated once, and its failures are told in the service's own words."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from sqlalchemy import MetaData, inspect, text

from service.errors import InvalidRequest, Overloaded, Unavailable
from service.gallery.database import NewerDatabase
from service.gallery.tables import metadata
from service.postgres.address import connection_parameters, shown
from service.postgres.database import open_postgres
from service.postgres.failures import DatabaseAway
from service.postgres.sessions import PostgresSessions
from tests.postgres_server import PostgresServer


def test_replicas_that_start_together_migrate_once(postgres_server: PostgresServer) -> None:
    with postgres_server.database() as name, ThreadPoolExecutor(4) as pool:
        engines = list(pool.map(open_postgres, [postgres_server.url(name)] * 4))
        found = MetaData()
        found.reflect(engines[0])
        assert set(metadata.tables) <= set(found.tables)
        for engine in engines:
            engine.dispose()


def test_the_migrations_make_the_tables_that_are_declared(postgres_url: str) -> None:
    engine = open_postgres(postgres_url)
    found = inspect(engine)
    with engine.connect() as connection, connection.begin():
        connection.execute(text("CREATE SCHEMA declared"))
        connection.execute(text("SET LOCAL search_path TO declared"))
        metadata.create_all(connection)
        declared = inspect(connection)
        for table in metadata.tables:
            assert _shape(found, table, "public") == _shape(declared, table, "declared"), table
        connection.rollback()
    engine.dispose()


def _shape(inspector: object, table: str, schema: str) -> object:
    assert hasattr(inspector, "get_columns")
    columns = [(c["name"], str(c["type"]), c["nullable"], getattr(c["type"], "collation", None)) for c in
               inspector.get_columns(table, schema)]  # fmt: skip
    keys = [(k["constrained_columns"], k["referred_table"], k["options"]) for k in
            inspector.get_foreign_keys(table, schema)]  # fmt: skip
    unique = sorted(u["column_names"] for u in inspector.get_unique_constraints(table, schema))
    indexes = {
        (i["name"], tuple(i["column_names"]))
        for i in inspector.get_indexes(table, schema)
        if None not in i["column_names"]
    }
    return (
        sorted(columns),
        sorted(keys, key=str),
        unique,
        indexes,
        inspector.get_pk_constraint(table, schema)["constrained_columns"],
    )


def test_a_newer_database_is_refused(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(NewerDatabase, match="9999"):
        open_postgres(postgres_url)


def test_a_database_without_pgvector_says_what_to_do(postgres_server: PostgresServer) -> None:
    with postgres_server.database() as name:
        with postgres_server.connect(name) as connection:
            connection.execute("DROP EXTENSION vector")
        with pytest.raises(Unavailable, match="CREATE EXTENSION vector"):
            open_postgres(postgres_server.url(name))


def test_no_error_shows_the_password(postgres_server: PostgresServer) -> None:
    with pytest.raises(InvalidRequest, match="special characters") as broken:
        open_postgres("postgresql://likeness:hush hush%@127.0.0.1/x")
    assert "hush" not in str(broken.value)
    url = postgres_server.url("nowhere")
    with pytest.raises(DatabaseAway) as away:
        open_postgres(url)
    shown_in = [away.value, away.value.__cause__, getattr(away.value.__cause__, "orig", None)]
    assert all(postgres_server.password not in f"{error!r} {error}" for error in shown_in)
    assert shown(url) == f"nowhere on 127.0.0.1:{postgres_server.port}"


def test_several_hosts_are_understood() -> None:
    url = "postgresql://likeness:secret@db1:5433,db2:5434/faces?target_session_attrs=any"
    parameters = connection_parameters(url)
    assert (parameters["host"], parameters["port"]) == ("db1,db2", "5433,5434")
    assert parameters["target_session_attrs"] == "any"
    assert connection_parameters("postgresql://db1/faces")["target_session_attrs"] == "read-write"
    assert shown(url) == "faces on db1:5433, db2:5434"


def test_reads_are_of_one_moment_and_cannot_write(postgres_url: str) -> None:
    sessions = PostgresSessions(open_postgres(postgres_url))
    count = text("SELECT count(*) FROM key_file")
    with sessions.read() as reading:
        assert reading.scalar(count) == 0
        with sessions.write() as writing:
            writing.execute(text("INSERT INTO key_file (id) VALUES ('1')"))
        assert reading.scalar(count) == 0
    with sessions.read() as reading:
        assert reading.scalar(count) == 1
    with pytest.raises(DatabaseAway), sessions.read() as reading:
        reading.execute(text("DELETE FROM key_file"))
    with sessions.read() as reading:
        assert reading.scalar(count) == 1
    sessions.close()


def test_connections_that_the_server_has_closed_are_made_anew(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    sessions = PostgresSessions(open_postgres(postgres_url))
    with sessions.read() as one, sessions.read() as other:
        assert one.scalar(text("SELECT 1")) == other.scalar(text("SELECT 1")) == 1
    with postgres_server.connect() as connection:
        name = postgres_url.rsplit("/", 1)[1]
        ended = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE datname = %s"
        assert connection.execute(ended, (name,)).fetchone() == (2,)
    with sessions.read() as one, sessions.write() as other:
        assert one.scalar(text("SELECT 1")) == other.scalar(text("SELECT 1")) == 1
    sessions.close()


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("SELECT pg_terminate_backend(pg_backend_pid())", DatabaseAway),
        ("SET LOCAL statement_timeout = 10; SELECT pg_sleep(9)", Overloaded),
        ("SELECT * FROM pg_authid", Unavailable),
        # As after a failover, when the old server comes back as the standby.
        ("SET TRANSACTION READ ONLY; DELETE FROM key_file", DatabaseAway),
    ],
)
def test_what_goes_wrong_is_told(postgres_url: str, statement: str, error: type[Exception]) -> None:
    sessions = PostgresSessions(open_postgres(postgres_url))
    with pytest.raises(error), sessions.write() as connection:
        connection.exec_driver_sql(statement)
    # And the next one works.
    with sessions.write() as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1
    sessions.close()
