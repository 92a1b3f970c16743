"""The PostgreSQL database under the store: how it is reached and migrated."""

import json
from functools import partial
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, text
from sqlalchemy.exc import DBAPIError

from service.errors import Unavailable
from service.gallery.database import WRITES, bring_up_to_date
from service.postgres.address import connection_parameters, shown
from service.postgres.failures import AWAY, storage_errors

__all__ = ["WRITES", "open_postgres", "storage_errors"]

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
    engine = _engine(url)
    try:
        with storage_errors(), engine.connect().execution_options(**{WRITES: True}) as connection, connection.begin():
            hold(connection, MIGRATING)
            _need_pgvector(connection)
            bring_up_to_date(connection, f"PostgreSQL database {shown(url)}", None)
    except BaseException:
        engine.dispose()
        raise
    return engine


def hold(connection: Connection, what: int) -> None:
    """Wait until no other transaction of any replica holds this advisory lock, and hold it to the end of this one."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:space, :what)"), {"space": LOCK_SPACE, "what": what})


def _engine(url: str) -> Engine:
    parameters = connection_parameters(url)
    engine = create_engine(
        # The address is kept from SQLAlchemy: it has a password in it, and several hosts are not a URL to it.
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(**parameters),  # type: ignore[arg-type]
        pool_size=16,
        max_overflow=48,
        pool_timeout=10,
        pool_pre_ping=True,
        json_serializer=partial(json.dumps, ensure_ascii=False, allow_nan=False),
        # Never shown in an error or a log: names and templates.
        hide_parameters=True,
    )
    event.listen(engine, "connect", _set_up)
    event.listen(engine, "handle_error", _let_go)
    return engine


def _set_up(connection: Any, _record: object) -> None:
    connection.autocommit = True
    connection.execute(_SESSION)
    connection.autocommit = False


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
