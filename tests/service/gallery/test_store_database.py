"""The file itself: made, migrated, locked, and refused when it cannot be right."""

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import inspect
from sqlalchemy.schema import CreateIndex, CreateTable

from service.errors import NotReady, Unavailable
from service.files import FolderInUse
from service.gallery.database import NewerDatabase, migrate, open_database
from service.gallery.store import Store
from service.gallery.tables import FIRST_FACE_KEY, metadata
from service.security.key_file import KeyFile
from service.security.master_key import FilePlace


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[KeyFile]:
    keys = KeyFile.open(tmp_path / "keys", FilePlace(tmp_path / "keys" / "master.key"))
    yield keys
    keys.close()


def test_an_empty_file_is_migrated_and_opens_again(tmp_path: Path, keys: KeyFile) -> None:
    path = tmp_path / "gallery.db"
    path.touch(0o644)
    for _ in range(2):
        engine = open_database(path, keys)
        migrate(engine, keys)
        assert set(metadata.tables) | {"alembic_version"} == set(inspect(engine).get_table_names())
        engine.dispose()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_migrations_make_the_tables_that_are_declared(tmp_path: Path, keys: KeyFile) -> None:
    engine = open_database(tmp_path / "gallery.db", keys)
    with closing(sqlite3.connect(":memory:")) as declared:
        for table in metadata.sorted_tables:
            declared.execute(str(CreateTable(table).compile(engine)))
            for index in table.indexes:
                declared.execute(str(CreateIndex(index).compile(engine)))
        with engine.connect() as connection:
            for table in metadata.tables:
                for pragma in ("table_info", "foreign_key_list", "index_list"):
                    query = f"PRAGMA {pragma}({table})"
                    migrated = {tuple(row)[pragma == "index_list" :] for row in connection.exec_driver_sql(query)}
                    assert migrated == {row[pragma == "index_list" :] for row in declared.execute(query)}, query
    engine.dispose()


def test_what_is_made_is_private(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "data" / "gallery" / "gallery.db", reserve_bytes=2**16)
    store.put_gallery("g", None, None, "contract", 4)
    folder = tmp_path / "data" / "gallery"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name for path in folder.iterdir()} >= {"gallery.db", "gallery.db-wal", "lock", "reserve", "keys"}
    assert {path.name for path in (folder / "keys").iterdir()} == {"lock", "master.key", "persons.keys"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()} == {0o600}
    assert stat.S_IMODE((folder / "keys").stat().st_mode) == 0o700
    assert (folder / "reserve").stat().st_size == 2**16
    store.close()


def test_every_connection_is_durable_and_overwrites(tmp_path: Path, keys: KeyFile) -> None:
    engine = open_database(tmp_path / "gallery.db", keys)
    with engine.connect() as one, engine.connect() as other:
        for connection in (one, other):
            for pragma, value in (
                ("journal_mode", "wal"),
                ("synchronous", 2),
                ("foreign_keys", 1),
                ("secure_delete", 1),
                ("temp_store", 2),
                ("page_size", 8192),
            ):
                assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar_one() == value
    with engine.connect() as connection:
        last = connection.exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = 'faces'").scalar_one()
    assert last == FIRST_FACE_KEY - 1
    engine.dispose()


def test_a_newer_database_is_refused(tmp_path: Path, keys: KeyFile) -> None:
    path = tmp_path / "gallery.db"
    open_database(path, keys).dispose()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    for _ in range(2):  # the lock is let go
        with pytest.raises(NewerDatabase, match="9999") as refused:
            open_database(path, keys)
    assert isinstance(refused.value, Unavailable)


def test_a_damaged_file_is_refused(tmp_path: Path, keys: KeyFile) -> None:
    path = tmp_path / "gallery.db"
    path.write_bytes(os.urandom(20_000))
    with pytest.raises(Unavailable, match="damaged"):
        open_database(path, keys)


def test_a_second_process_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    code = "import sys, pathlib; from service.gallery.store import Store; Store.open(pathlib.Path(sys.argv[1])).close()"
    command = [sys.executable, "-c", code, str(tmp_path / "gallery.db")]
    store = Store.open(tmp_path / "gallery.db", reserve_bytes=2**16)
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "FolderInUse" in refused.stderr
    assert str(tmp_path) in refused.stderr
    with pytest.raises(FolderInUse, match="data folder") as here:
        Store.open(tmp_path / "gallery.db")
    assert isinstance(here.value, NotReady)
    store.close()
    Store.open(tmp_path / "gallery.db").close()
