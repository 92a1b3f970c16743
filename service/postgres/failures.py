"""What PostgreSQL says when something goes wrong, as domain errors: away is 503, busy is 429, a full disk is 507."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from service.errors import InsufficientStorage, LikenessError, Overloaded, Unavailable

# Stopped, crashed, starting, or not the server that takes writes (any more).
AWAY = {"57P01", "57P02", "57P03", "57P05", "25006"}
# Deadlock, serialisation, a lock or a statement that took too long, out of memory or connections.
_BUSY = {"40001", "40P01", "55P03", "57014", "25P03", "25P04", "53200", "53300", "53400"}
_FULL = {"53100"}
_DAMAGED = {"XX001", "XX002", "58030"}
_REFUSED = {"42501"}


class DatabaseAway(Unavailable):
    """PostgreSQL does not answer now; what was asked for may be asked for again."""

    def __init__(self) -> None:
        super().__init__("The gallery database does not answer. Try again in a moment.", {"retry_after_s": 1})


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn what PostgreSQL and the pool of connections say into domain errors."""
    try:
        yield
    except (DBAPIError, psycopg.Error) as error:
        original = error.orig if isinstance(error, DBAPIError) else error
        domain = _domain_error(original, isinstance(error, DBAPIError) and error.connection_invalidated)
        if domain is None:
            raise
        raise domain from error
    except PoolTimeout as error:
        # They stand still because the server does: a service that has too much to do refuses it before it gets here.
        raise DatabaseAway from error


def _domain_error(error: BaseException | None, lost: bool) -> LikenessError | None:
    code = getattr(error, "sqlstate", None) or ""
    if code in _FULL:
        return InsufficientStorage(
            "The disk of the gallery database is full; nothing was written. Make room on PostgreSQL's machine."
        )
    if code in _BUSY:
        return Overloaded("The gallery database is busy. Try again later.", {"retry_after_s": 1})
    if code in _DAMAGED:
        return Unavailable(f"The gallery database is damaged ({error}). Restore it from a backup.")
    if code in _REFUSED:
        return Unavailable(f"The gallery database refuses this role ({error}). Give it what docs/postgres.md lists.")
    # Without a state it is the connection itself: refused, timed out, or cut off in the middle of an answer.
    gone = not code and isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return DatabaseAway() if lost or gone or code in AWAY or code.startswith("08") else None
