"""The few things that SQLite and PostgreSQL have to be told in different words."""

from sqlalchemy import Connection, text

# Of the transactions that make galleries: an advisory lock, "LIKE" as a number and the purpose. See
# ``service.postgres.database``.
_MAKING = "SELECT pg_advisory_xact_lock(1279871813, 3)"


def is_postgres(connection: Connection) -> bool:
    """The database is PostgreSQL, which others may change at the same time."""
    return connection.dialect.name == "postgresql"


def make_alone(connection: Connection) -> None:
    """Hold everyone else who makes a gallery or its tables off, to the end of the transaction."""
    # SQLite has one writer at a time.
    if is_postgres(connection):
        connection.execute(text(_MAKING))


def last_person(connection: Connection) -> int:
    """The largest key that a person of this database, which is SQLite, ever had."""
    found = connection.execute(text("SELECT seq FROM sqlite_sequence WHERE name = 'persons'")).scalar_one_or_none()
    return int(found or 0)
