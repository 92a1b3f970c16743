"""PostgreSQL, where the settings name one: does it answer, has it what is needed, and does it keep what it is given?"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from service.diagnosis.access import access_keys
from service.diagnosis.finding import Finding, State

if TYPE_CHECKING:
    import psycopg

    from service.security.access_keys import AccessKey
    from service.settings import Settings

# Of a replica: those of the store, and some for access keys, the audit log and what follows changes.
CONNECTIONS = 32


def database(settings: "Settings") -> Iterator[Finding]:
    """There, writable, with pgvector, and durable. Nothing is changed, and the password is never shown."""
    if settings.database_url is None:
        return
    import psycopg

    from service.postgres.address import connection_parameters, shown

    url = settings.database_url.get_secret_value()
    where = shown(url)
    try:
        with psycopg.connect(**connection_parameters(url)) as connection:  # type: ignore[arg-type]
            version = connection.info.server_version
            yield Finding("database", "ok", f"PostgreSQL {version // 10000}.{version % 10000} answers: {where}")
            yield from _extension(connection)
            yield from _durability(connection)
            yield from _master_key(connection, settings)
            yield from access_keys(settings, _access_keys(connection))
    except psycopg.OperationalError as error:
        advice = "Start it, or mend LIKENESS_DATABASE_URL; see docs/postgres.md."
        yield Finding("database", "fail", f"{where} does not answer: {' '.join(str(error).split())}", advice)


def _master_key(connection: "psycopg.Connection[tuple[str]]", settings: "Settings") -> Iterator[Finding]:
    from service.errors import LikenessError
    from service.security.master_key import FilePlace, chosen

    place = settings.master_place()
    made = connection.execute("SELECT to_regclass('likeness_keys.service')").fetchone()
    row = connection.execute("SELECT master FROM likeness_keys.service").fetchone() if made and made[0] else None
    try:
        if row is None and isinstance(place, FilePlace):
            yield Finding("master key", "ok", "none yet: made at the first start, then to be copied to all replicas")
            return
        masters = place.read(may_make=False)
        if row is not None:
            chosen(row[0], masters, place, "The keys in the database")
        use = "and it is the database's" if row is not None else "nothing is sealed with it yet"
        yield Finding("master key", "ok", f"in {place.where}, {use}")
    except LikenessError as error:
        yield Finding("master key", "fail", error.message)


def _access_keys(connection: "psycopg.Connection[tuple[str]]") -> list["AccessKey"]:
    from service.security.access_keys import AccessKey

    made = connection.execute("SELECT to_regclass('access_keys')").fetchone()
    rows = connection.execute("SELECT record FROM access_keys").fetchall() if made and made[0] else []
    return [AccessKey.model_validate_json(record) for (record,) in rows]


def _extension(connection: "psycopg.Connection[tuple[str]]") -> Iterator[Finding]:
    query = "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
    row = connection.execute(query).fetchone()
    if row is not None:
        yield Finding("pgvector", "ok", row[0])
        return
    query = "SELECT default_version FROM pg_available_extensions WHERE name = 'vector'"
    row = connection.execute(query).fetchone()
    if row is None:
        found, advice = (
            "is not installed on PostgreSQL's machine",
            "Install it there (postgresql-17-pgvector in Debian).",
        )
    else:
        found, advice = (
            f"{row[0]} is there, but not in this database",
            "A superuser says in it: CREATE EXTENSION vector",
        )
    yield Finding("pgvector", "fail", found, advice)


def _durability(connection: "psycopg.Connection[tuple[str]]") -> Iterator[Finding]:
    settings = {}
    for name in ("fsync", "full_page_writes", "max_connections"):
        row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
        assert row is not None
        settings[name] = row[0]
    off = [name for name in ("fsync", "full_page_writes") if settings[name] == "off"]
    if off:
        advice = "Switch it on: without it a power cut loses what was answered, or the whole database."
        yield Finding("durability", "warn", f"{' and '.join(off)} is off", advice)
    replicas = int(settings["max_connections"]) // CONNECTIONS
    state: State = "ok" if replicas >= 2 else "warn"
    advice = "" if state == "ok" else "Raise it: docs/postgres.md has the sum."
    found = f"{settings['max_connections']} at most: enough for {replicas} replicas"
    yield Finding("connections", state, found, advice)
