"""Sealed templates in the store: backups, swapped rows, files that do not belong together, and older databases."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from alembic import command
from alembic.config import Config
from cryptography.exceptions import InvalidTag
from sqlalchemy import create_engine

from service.errors import PersonNotFound, Unavailable
from service.gallery import database
from service.gallery.records import NewFace
from service.gallery.store import Store
from service.security.envelope import template_place, unseal
from service.security.key_file import KeyFile, KeyFileError

DIMENSION = 64


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = opened(tmp_path)
    store.put_gallery("g", None, None, "contract", DIMENSION)
    for person in ("ann", "bob", "eve"):
        add(store, person)
    yield store
    store.close()


def opened(folder: Path) -> Store:
    return Store.open(folder / "gallery.db", reserve_bytes=2**16)


def vector_of(person: str) -> np.ndarray:
    return np.random.default_rng(list(person.encode())).standard_normal(DIMENSION).astype(np.float32)


def add(store: Store, person: str) -> None:
    store.put_person("g", person)
    store.add_faces("g", person, [NewFace(vector_of(person), f"{person}.1")])


def back_up(store: Store, folder: Path) -> Path:
    """As docs/durability.md says: SQLite's own copy of the database, and nothing of the keys."""
    folder.mkdir()
    with closing(sqlite3.connect(store._sessions.path)) as source, closing(sqlite3.connect(folder / "copy")) as copy:
        source.backup(copy)
    return folder / "copy"


def restore(copy: Path, folder: Path) -> None:
    for name in ("gallery.db-wal", "gallery.db-shm"):
        (folder / name).unlink(missing_ok=True)
    shutil.copy(copy, folder / "gallery.db")


def test_a_backup_brings_nobody_back(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    copy = back_up(store, tmp_path / "backup")
    slot = store.keys._file.read((7 + store.person("g", "bob").key) * 64, 64)
    store.delete_person("g", "bob")
    add(store, "new")
    assert slot[4:] not in b"".join(p.read_bytes() for p in (tmp_path / "keys").iterdir())
    store.close()
    restore(copy, tmp_path)
    again = opened(tmp_path)
    assert "1 persons of this database were erased" in caplog.text
    assert [person.id for person in again.persons("g").items] == ["ann", "eve"]
    assert (again.gallery("g").persons, again.gallery("g").faces) == (2, 2)
    np.testing.assert_array_equal(again.embeddings("g", "ann"), [vector_of("ann")])
    assert len(next(iter(again.templates(again.gallery("g").key))).faces) == 2
    # "new" has the number of the person who was there after the backup, and another key.
    add(again, "newer")
    np.testing.assert_array_equal(again.embeddings("g", "newer"), [vector_of("newer")])
    again.close()


def test_with_all_keys_at_hand_the_backup_of_an_erased_person_opens_with_none(store: Store, tmp_path: Path) -> None:
    copy = back_up(store, tmp_path / "backup")
    gone = store.person("g", "bob").key
    store.delete_person("g", "bob")
    with closing(sqlite3.connect(copy)) as connection:
        query = "SELECT f.gallery_key, f.key, t.sealed FROM faces f JOIN templates_64 t ON t.face_key = f.key"
        ((gallery, face, sealed),) = connection.execute(f"{query} WHERE f.person_key = {gone}")
    for person in range(1, 10):
        cipher = store.keys.cipher(person)
        if cipher is not None:
            with pytest.raises(InvalidTag):
                unseal(cipher, sealed, template_place(gallery, gone, face))
    assert store.keys.cipher(gone) is None


def test_a_deleted_gallery_takes_its_keys_along(store: Store) -> None:
    keys = store.person_keys("g")
    store.delete_gallery("g")
    assert store.keys.ciphers(keys) == {}
    assert store.keys.slots().clean.all()


@pytest.mark.parametrize("change", ["swap", "flip", "short"])
def test_a_row_that_was_swapped_or_changed_is_refused(store: Store, tmp_path: Path, change: str) -> None:
    with closing(sqlite3.connect(tmp_path / "gallery.db")) as connection, connection:
        (one, first), (two, second) = connection.execute("SELECT face_key, sealed FROM templates_64 LIMIT 2")
        flipped = bytes([first[0] ^ 1, *first[1:]])
        changes = {"swap": {one: second, two: first}, "flip": {one: flipped}, "short": {one: first[:-1]}}
        for face, sealed in changes[change].items():
            connection.execute("UPDATE templates_64 SET sealed = ? WHERE face_key = ?", (sealed, face))
    with pytest.raises(Unavailable, match=str(one)):
        store.embeddings("g", "ann")
    with pytest.raises(Unavailable, match="damaged or changed"):
        list(store.templates(store.gallery("g").key))


def test_keys_of_another_database_are_refused(store: Store, tmp_path: Path) -> None:
    store.close()
    shutil.move(tmp_path / "keys", tmp_path / "kept")
    for _ in range(2):
        with pytest.raises(KeyFileError, match="not those of this database"):
            opened(tmp_path)
    shutil.rmtree(tmp_path / "keys")
    shutil.move(tmp_path / "kept", tmp_path / "keys")
    opened(tmp_path).close()


def test_a_new_database_does_not_take_the_keys_of_another(store: Store, tmp_path: Path) -> None:
    """As when the service is started before the database was restored: the keys must survive that."""
    store.close()
    for file in tmp_path.glob("gallery.db*"):
        file.rename(tmp_path / f"kept-{file.name}")
    with pytest.raises(KeyFileError, match="Put that database back"):
        opened(tmp_path)
    for file in tmp_path.glob("kept-*"):
        file.rename(tmp_path / file.name.removeprefix("kept-"))
    again = opened(tmp_path)
    assert len(again.embeddings("g", "eve")) == 1
    again.close()


def test_an_old_copy_of_the_keys_is_refused_and_nothing_is_deleted(store: Store, tmp_path: Path) -> None:
    old = (tmp_path / "keys" / "persons.keys").read_bytes()
    add(store, "new")
    store.close()
    newest = (tmp_path / "keys" / "persons.keys").read_bytes()
    (tmp_path / "keys" / "persons.keys").write_bytes(old)
    with pytest.raises(KeyFileError, match="1 persons.*older than the database"):
        opened(tmp_path)
    (tmp_path / "keys" / "persons.keys").write_bytes(newest)
    again = opened(tmp_path)
    assert len(again.persons("g").items) == 4
    again.close()


def test_a_damaged_key_deletes_nobody(store: Store, tmp_path: Path) -> None:
    store.close()
    with (tmp_path / "keys" / "persons.keys").open("r+b") as stream:
        stream.seek(8 * 64 + 4)
        stream.write(b"damage")
    with pytest.raises(KeyFileError, match="Record 8"):
        opened(tmp_path)
    with closing(sqlite3.connect(tmp_path / "gallery.db")) as connection:
        assert connection.execute("SELECT count(*) FROM persons").fetchone() == (3,)


def test_a_key_that_could_not_be_overwritten_is_next_time(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = store.person("g", "ann").key
    with monkeypatch.context() as patch:
        patch.setattr(KeyFile, "destroy", lambda *_: (_ for _ in ()).throw(PermissionError("the disk fails")))
        with pytest.raises(Unavailable):
            store.delete_person("g", "ann")
    with pytest.raises(PersonNotFound):
        store.person("g", "ann")
    assert store.keys.cipher(key) is not None
    store.delete_person("g", "bob")
    assert store.keys.cipher(key) is None
    with monkeypatch.context() as patch:
        patch.setattr(KeyFile, "destroy", lambda *_: (_ for _ in ()).throw(PermissionError("the disk fails")))
        with pytest.raises(Unavailable):
            store.delete_person("g", "eve")
    store.close()
    again = opened(tmp_path)
    assert again.keys.slots().clean.all()
    again.close()


def test_a_database_with_templates_in_clear_is_sealed_when_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gallery.db"
    expected = old_database(path)
    raw = path.read_bytes()
    assert all(vector.tobytes()[:64] in raw for vector in expected.values())

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    # Keys are made, and then the power fails.
    upgrade = command.upgrade
    with monkeypatch.context() as patch:
        patch.setattr(command, "upgrade", lambda *args: (upgrade(*args), interrupted()))
        with pytest.raises(KeyboardInterrupt):
            opened(tmp_path)
    assert all(vector.tobytes()[:64] in path.read_bytes() for vector in expected.values())
    for _ in range(2):
        store = opened(tmp_path)
        found = {}
        for gallery in store.galleries().items:
            for block in store.templates(gallery.key, block=7):
                found |= dict(zip(block.faces.tolist(), block.embeddings, strict=True))
        assert found.keys() == expected.keys()
        assert all(found[face].tobytes() == vector.tobytes() for face, vector in expected.items())
        everything = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
        assert not any(vector.tobytes()[at : at + 16] in everything for vector in expected.values() for at in (0, 64))
        add(store, "new")
        store.delete_person("g", "new")
        store.close()


def old_database(path: Path) -> dict[int, np.ndarray]:
    """A database of the first revision, two galleries of two dimensions; the templates by face key."""
    engine = create_engine(f"sqlite:///{path}")
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    rng = np.random.default_rng(8)
    templates: dict[int, np.ndarray] = {}
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        run = connection.exec_driver_sql
        for gallery, id, dimension in ((1, "g", DIMENSION), (2, "h", 40)):
            at = "2026-11-01 00:00:00.000000"
            run(
                "INSERT INTO galleries (key, id, embedding_contract, dimension, revision, persons, faces, created_at) "
                "VALUES (?, ?, 'contract', ?, 1, 5, 50, ?)",
                (gallery, id, dimension, at),
            )
            run(
                f"CREATE TABLE templates_{dimension} (face_key INTEGER NOT NULL PRIMARY KEY "
                "REFERENCES faces (key) ON DELETE CASCADE, embedding BLOB NOT NULL)"
            )
            for n in range(5):
                person = gallery * 100 + n
                run(
                    "INSERT INTO persons (key, gallery_key, id, metadata, created_at, updated_at) "
                    "VALUES (?, ?, ?, '{}', ?, ?)",
                    (person, gallery, f"p{n}", at, at),
                )
                for m in range(10):
                    (face,) = run(
                        "INSERT INTO faces (gallery_key, person_key, id, facts, created_at) VALUES (?, ?, ?, '{}', ?) "
                        "RETURNING key",
                        (gallery, person, f"f{n}.{m}", at),
                    ).one()
                    templates[face] = rng.standard_normal(dimension).astype(np.float32)
                    run(f"INSERT INTO templates_{dimension} VALUES (?, ?)", (face, templates[face].tobytes()))
    engine.dispose()
    return templates
