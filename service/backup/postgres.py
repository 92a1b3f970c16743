"""Backup and restore of a store in PostgreSQL, with PostgreSQL's own dumps.

The dump of a backup is of one moment, and has neither the keys of the persons nor access keys nor the audit log. Of
these there is one copy, made after it, that each backup replaces: whoever is erased in it is erased again after a
restore.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from service import __version__
from service.backup.archive import Archive, Backup
from service.backup.embedded import Made, Restored, require_apart, unsealed
from service.backup.postgres_tools import Tools
from service.errors import InvalidRequest, Unavailable
from service.files import make_private_folder, sync_folder
from service.postgres.address import connection_parameters
from service.postgres.store import open_store
from service.security.master_key import MasterPlace

ENGINE = "postgresql"
KEYS_DUMP, SHARED_DUMP = "keys.dump", "shared.dump"
# Kept history of these would bring back access keys that were revoked, and hide what was done since.
_SHARED = ("access_keys", "access_keys_stamp", "audit_lines", "audit_head")
_FACTS = (
    "SELECT encode((SELECT id FROM key_file), 'hex'), (SELECT version_num FROM alembic_version), "
    "(SELECT count(*) FROM galleries WHERE id IS NOT NULL), (SELECT count(*) FROM persons), "
    "(SELECT count(*) FROM faces), (SELECT master FROM likeness_keys.service)"
)
_USED = (
    "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') "
    "AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg_%'"
)


@dataclass(frozen=True)
class Place:
    """A database and the programs for it."""

    url: str
    programs: Path | None

    @property
    def tools(self) -> Tools:
        return Tools(self.programs, self.parameters)

    @property
    def parameters(self) -> dict[str, str]:
        return connection_parameters(self.url)

    @contextmanager
    def connected(self) -> Iterator["psycopg.Connection[tuple[Any, ...]]"]:
        """Raises Unavailable."""
        try:
            # The patience with a server is that of the one who waits.
            with psycopg.connect(**self.parameters, autocommit=True) as connection:  # type: ignore[arg-type]
                yield connection
        except psycopg.Error as error:
            raise Unavailable(f"PostgreSQL: {str(error).strip():.500}") from error


def back_up(place: Place, archive: Archive, keys: Path, keep: int | None) -> Made:
    """Add a dump to ``archive``, also while replicas run; see ``embedded.back_up``."""
    require_apart(keys, archive.folder)
    make_private_folder(keys)
    with archive.changing():
        dump = archive.folder / "copying"
        dump.unlink(missing_ok=True)
        try:
            at = datetime.now(UTC)
            with place.connected() as connection:
                connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                facts = _facts(connection)
                [[snapshot]] = connection.execute("SELECT pg_export_snapshot()").fetchall()
                # Vectors are not sealed: in a dump those of erased persons would outlive them. They are made anew.
                left_out = ["--no-unlogged-table-data", "--exclude-table=person_vectors_*"]
                left_out += [f"--exclude-table-data={table}" for table in _SHARED]
                place.tools.dump(dump, f"--snapshot={snapshot}", "--exclude-schema=likeness_keys", *left_out)
                connection.execute("COMMIT")
            for name, what in (
                (KEYS_DUMP, ["--schema=likeness_keys"]),
                (SHARED_DUMP, ["--data-only", *(f"--table={table}" for table in _SHARED)]),
            ):
                beside = keys / f"{name}.new"
                beside.unlink(missing_ok=True)
                place.tools.dump(beside, *what)
                beside.replace(keys / name)
                sync_folder(keys)
            backup, new = archive.add(dump, at, {**facts, "engine": ENGINE, "version": __version__})
        finally:
            dump.unlink(missing_ok=True)
        return Made(backup, new, archive.prune(keep))


def restore(place: Place, archive: Archive, keys: Path, moment: datetime | None, master: MasterPlace) -> Restored:
    """Fill the empty database of ``place``; see ``embedded.restore``."""
    backup = archive.at(moment)
    if backup.facts.get("engine") != ENGINE:
        raise InvalidRequest(f"The backups in {archive.folder} are of a data folder, and not of PostgreSQL.")
    for name in (KEYS_DUMP, SHARED_DUMP):
        if not (keys / name).exists():
            raise InvalidRequest(f"There is no {name} in {keys}. Name the folder that --keys named for the backup.")
    with place.connected() as connection:
        [[tables]] = connection.execute(_USED).fetchall()
    if tables:
        raise InvalidRequest(
            f"The database has {tables} tables, and nothing is restored over them. Make an empty one (createdb)."
        )
    with archive.changing():
        dump = archive.folder / "copying"
        dump.unlink(missing_ok=True)
        try:
            archive.write(backup, dump)
            for part in (keys / KEYS_DUMP, dump, keys / SHARED_DUMP):
                place.tools.restore(part)
        finally:
            dump.unlink(missing_ok=True)
    store = open_store(place.url, master)
    try:
        return unsealed(store, backup)
    finally:
        store.close()


def _facts(connection: "psycopg.Connection[tuple[Any, ...]]") -> dict[str, Any]:
    try:
        row = connection.execute(_FACTS.encode()).fetchone()
    except psycopg.errors.UndefinedTable as error:
        raise Unavailable(
            "There is no gallery in this database: no service has used it yet. Check its name."
        ) from error
    assert row is not None
    return dict(zip(("key_file", "revision", "galleries", "persons", "faces", "master_key"), row, strict=True))


def of_postgres(backup: Backup) -> bool:
    """Whether it is a dump."""
    return backup.facts.get("engine") == ENGINE
