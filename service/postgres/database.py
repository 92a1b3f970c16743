"""The PostgreSQL database under the store: how it is reached and migrated."""

import json
import select
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry

from service.errors import Unavailable
from service.gallery.database import WRITES, bring_up_to_date
from service.postgres.address import connection_parameters, shown
from service.postgres.failures import AWAY, storage_errors

__all__ = ["WRITES", "open_postgres", "reached", "storage_errors"]

_NEW = "likeness_new"
# A replica's, for the store: PostgreSQL has a process for each, and allows 100 unless told otherwise.
CONNECTIONS = 16
# Of advisory locks, which all programs on a database share: "LIKE" as a number, then what it is for.
LOCK_SPACE, MIGRATING, MAKING_KEYS = 0x4C494B45, 1, 2

# A replica that stands still must not keep a gallery locked for all others.
_SESSION = """
SELECT set_config('lock_timeout', '10s', false), set_config('idle_in_transaction_session_timeout', '60s', false),
       set_config('default_transaction_isolation', 'read committed', false), set_config('jit', 'off', false),
       set_config('synchronous_commit', coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), false)
"""


def open_postgres(url: str) -> Engine:
    """Reach the database at ``url`` and bring its tables up to date; replicas that do so together do it once.

    Raises:
        InvalidRequest: the URL is none.
        NewerDatabase: a newer version of this program has used it.
        DatabaseAway: it does not answer.
        Unavailable: the extension pgvector is missing, or the role may not do what it has to.
    """
    engine = _engine(url, CONNECTIONS)
    try:
        with storage_errors(), engine.connect().execution_options(**{WRITES: True}) as connection, connection.begin():
            hold(connection, MIGRATING)
            _need_pgvector(connection)
            bring_up_to_date(connection, f"PostgreSQL database {shown(url)}", None)
    except BaseException:
        engine.dispose()
        raise
    return engine


@contextmanager
def reached(url: str, connections: int = CONNECTIONS) -> Iterator[Engine]:
    """Connections to a database whose tables are up to date, ``connections`` at most. Raises InvalidRequest."""
    engine = _engine(url, connections)
    try:
        yield engine
    finally:
        engine.dispose()


def hold(connection: Connection, what: int) -> None:
    """Wait until no other transaction of any replica holds this advisory lock, and hold it to the end of this one."""
    # However long it takes: a migration of large tables, a program that asks a KMS.
    connection.execute(text("SET LOCAL lock_timeout = 0"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:space, :what)"), {"space": LOCK_SPACE, "what": what})


def _engine(url: str, connections: int) -> Engine:
    parameters = connection_parameters(url)
    engine = create_engine(
        # The address is kept from SQLAlchemy: it has a password in it, and several hosts are not a URL to it.
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(**parameters),  # type: ignore[arg-type]
        pool_size=connections,
        max_overflow=0,
        pool_timeout=10,
        json_serializer=partial(json.dumps, ensure_ascii=False, allow_nan=False),
        # Never shown in an error or a log: names and templates.
        hide_parameters=True,
    )
    event.listen(engine, "connect", _set_up)
    event.listen(engine, "checkout", _see_that_it_is_open)
    event.listen(engine, "handle_error", _let_go)
    return engine


def _set_up(connection: Any, record: ConnectionPoolEntry) -> None:
    record.info[_NEW] = True
    connection.autocommit = True
    connection.execute(_SESSION)
    connection.autocommit = False


def _see_that_it_is_open(connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
    # A server that ends says so, and to a connection that has asked nothing it says nothing else. SQLAlchemy's own way
    # (pool_pre_ping) is a way there and back more for each transaction.
    if record.info.pop(_NEW, False):
        return
    if connection.closed:
        raise DisconnectionError
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    if waiting.poll(0):
        raise DisconnectionError


def _let_go(context: ExceptionContext) -> None:
    # Connections to a server that takes no writes any more are alive, and of no use.
    if getattr(context.original_exception, "sqlstate", None) in AWAY:
        context.is_disconnect = True


def _need_pgvector(connection: Connection) -> None:
    if connection.scalar(text("SELECT 1 FROM pg_extension WHERE extname = 'vector'")):
        return
    try:
        with connection.begin_nested():
            connection.execute(text("CREATE EXTENSION IF NOT EXISTS vector"))
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        raise Unavailable(
            "The gallery database lacks the extension pgvector, and this role cannot make it "
            f"({str(error.orig).splitlines()[0]}). Install pgvector on PostgreSQL's machine, and let a superuser say "
            "CREATE EXTENSION vector in this database."
        ) from error
