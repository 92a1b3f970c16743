"""The keys of persons in PostgreSQL: rotated, restored, damaged, and absent from a dump."""

import json
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psycopg
import pytest

from service.cli.main import main
from service.errors import PersonNotFound
from service.gallery.records import NewFace
from service.gallery.store import Store
from service.postgres.store import open_store
from service.security.key_file import KeyFileError
from service.security.master_key import FilePlace, GivenPlace, MasterKey, MasterKeyError
from tests.postgres_server import SUPERUSER, PostgresServer, programs

DIMENSION = 64
MASTER = MasterKey.new()
GIVEN = GivenPlace(MASTER.text())


@pytest.fixture
def store(postgres_url: str) -> Iterator[Store]:
    store = open_store(postgres_url, GIVEN)
    store.put_gallery("g", None, None, "contract", DIMENSION)
    for person in ("ann", "bob", "eve"):
        add(store, person)
    yield store
    store.close()


def vector_of(person: str) -> np.ndarray:
    return np.random.default_rng(list(person.encode())).standard_normal(DIMENSION).astype(np.float32)


def add(store: Store, person: str) -> None:
    store.put_person("g", person)
    store.add_faces("g", person, [NewFace(vector_of(person), f"{person}.1")])


def persons(store: Store) -> dict[str, bytes]:
    return {person.id: store.embeddings("g", person.id).tobytes() for person in store.persons("g").items}


def everyone(*names: str) -> dict[str, bytes]:
    return {name: vector_of(name).tobytes() for name in names}


def dump(url: str, *options: str) -> bytes:
    done = subprocess.run([programs() / "pg_dump", *options, url], check=True, capture_output=True)
    return done.stdout


def test_another_replica_opens_with_the_master_key_and_with_no_other(store: Store, postgres_url: str) -> None:
    other = open_store(postgres_url, GIVEN)
    assert persons(other) == everyone("ann", "bob", "eve")
    assert other.keys.derived("x") == store.keys.derived("x")
    add(other, "new")
    assert persons(store) == everyone("ann", "bob", "eve", "new")
    other.close()
    with pytest.raises(MasterKeyError, match=MASTER.name):
        open_store(postgres_url, GivenPlace(MasterKey.new().text()))


def test_a_master_key_in_a_file_is_made_by_the_first_replica_only(postgres_url: str, tmp_path: Path) -> None:
    open_store(postgres_url, FilePlace(tmp_path / "one" / "master.key")).close()
    open_store(postgres_url, FilePlace(tmp_path / "one" / "master.key")).close()
    with pytest.raises(MasterKeyError, match="Put it back"):
        open_store(postgres_url, FilePlace(tmp_path / "two" / "master.key"))


def test_a_deleted_person_is_deleted_with_the_key(store: Store, postgres_url: str) -> None:
    keys = [int(key) for key in store.person_keys("g")]
    store.delete_person("g", "bob")
    with store._sessions.read() as connection:
        assert sorted(store.keys.within(connection).ciphers(keys)) == [keys[0], keys[2]]
    store.delete_gallery("g")
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT count(*) FROM likeness_keys.person_keys").fetchone() == (0,)
        assert connection.execute(
            "SELECT array_agg(person_key ORDER BY person_key) FROM likeness_keys.erased"
        ).fetchone() == (keys,)


def test_rotation_leaves_old_replicas_without_the_keys(store: Store, postgres_url: str, tmp_path: Path) -> None:
    place = FilePlace(tmp_path / "master.key")
    place.keep(MASTER)
    new = MasterKey.new()
    old_wraps = wraps(postgres_url)
    assert store.keys.rotate(store._sessions.engine, place, new) == 3
    assert [key.name for key in place.read(may_make=False)] == [new.name]
    assert wraps(postgres_url).isdisjoint(old_wraps)
    for call in (
        lambda: store.embeddings("g", "ann"),
        lambda: store.put_person("g", "late"),
        store.check,
    ):
        with pytest.raises(Exception, match=new.name):
            call()
    again = open_store(postgres_url, place)
    assert persons(again) == everyone("ann", "bob", "eve")
    assert again.keys.derived("x") == store.keys.derived("x")
    add(again, "late")
    again.check()
    again.close()


def test_the_command_rotates_the_keys_of_the_database(
    store: Store, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    new = MasterKey.new()
    for name, value in {
        "LIKENESS_DATABASE_URL": postgres_url,
        "LIKENESS_MASTER_KEY": GIVEN.text,
        "LIKENESS_NEW_MASTER_KEY": new.text(),
    }.items():
        monkeypatch.setenv(name, value)
    assert main(["keys", "rotate-master", "--data-dir", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["persons"], told["master_key"]) == (3, new.name)
    with pytest.raises(MasterKeyError):
        store.embeddings("g", "ann")
    again = open_store(postgres_url, GivenPlace(new.text()))
    assert persons(again) == everyone("ann", "bob", "eve")
    again.close()
    assert list(tmp_path.iterdir()) == []


def test_whoever_was_added_while_keys_are_rotated_opens_afterwards(
    store: Store, postgres_url: str, tmp_path: Path
) -> None:
    place = FilePlace(tmp_path / "master.key")
    place.keep(MASTER)

    def add_until_refused(thread: int) -> list[str]:
        answered: list[str] = []
        while True:
            try:
                add(store, f"p{thread}-{len(answered)}")
            except MasterKeyError:
                return answered
            answered.append(f"p{thread}-{len(answered)}")

    with ThreadPoolExecutor(3) as pool:
        adding = [pool.submit(add_until_refused, n) for n in range(3)]
        time.sleep(0.3)
        store.keys.rotate(store._sessions.engine, place, MasterKey.new())
    answered = [person for added in adding for person in added.result()]
    again = open_store(postgres_url, place)
    # One of each thread may have been made without its face.
    found = {person.id for person in again.persons("g", limit=1000).items if person.faces}
    assert found == {"ann", "bob", "eve", *answered}
    assert len(answered) > 3
    for person in answered:
        np.testing.assert_array_equal(again.embeddings("g", person), [vector_of(person)])
    again.close()


def wraps(url: str) -> set[bytes]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT wrapped FROM likeness_keys.person_keys UNION SELECT wrapped FROM likeness_keys.service"
        )
        return {row[0] for row in rows}


def test_a_rotation_that_was_cut_off_leaves_both_master_keys_and_the_next_start_settles_it(
    store: Store, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = FilePlace(tmp_path / "master.key")
    place.keep(MASTER)
    new = MasterKey.new()
    with monkeypatch.context() as patch:
        patch.setattr(type(store.keys), "check_master", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.keys.rotate(store._sessions.engine, place, new)
    assert len(place.read(may_make=False)) == 2
    again = open_store(postgres_url, place)
    assert [key.name for key in place.read(may_make=False)] == [MASTER.name]
    assert persons(again) == everyone("ann", "bob", "eve")
    again.close()


def test_a_damaged_key_is_told_and_the_others_open(store: Store, postgres_url: str) -> None:
    key = store.person("g", "bob").key
    with psycopg.connect(postgres_url) as connection:
        connection.execute(
            "UPDATE likeness_keys.person_keys SET wrapped = wrapped || '1' WHERE person_key = %s", (key,)
        )
    with pytest.raises(KeyFileError, match=f"person {key} .*damaged"):
        store.embeddings("g", "bob")
    np.testing.assert_array_equal(store.embeddings("g", "ann"), [vector_of("ann")])


@pytest.mark.usefixtures("store")
def test_a_dump_has_no_template_and_without_its_schema_no_key(postgres_url: str) -> None:
    whole, without = dump(postgres_url), dump(postgres_url, "--exclude-schema=likeness_keys")
    keys = {wrap.hex().encode() for wrap in wraps(postgres_url)}
    assert all(key in whole and key not in without for key in keys)
    for person in ("ann", "bob", "eve"):
        clear = vector_of(person).tobytes()
        assert not any(clear[at : at + 16].hex().encode() in whole for at in range(0, len(clear) - 16, 16))


def test_a_restored_dump_brings_nobody_back(
    store: Store, postgres_server: PostgresServer, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    copy = postgres_server.folder / "copy"
    left_out = ("--exclude-schema=likeness_keys", "--exclude-table=person_vectors_*")
    copy.write_bytes(dump(postgres_url, *left_out, "--format=custom"))
    store.delete_person("g", "bob")
    add(store, "new")
    later = store.person("g", "new").key
    store.close()
    with psycopg.connect(postgres_url) as connection:
        connection.execute("DROP TABLE person_vectors_64")
    name = postgres_url.rsplit("/", 1)[1]
    postgres_server.run("pg_restore", "--clean", "--dbname", postgres_server.url(name, SUPERUSER), copy)
    again = open_store(postgres_url, GIVEN)
    assert "1 persons of this database were erased" in caplog.text
    assert persons(again) == everyone("ann", "eve")
    assert (again.gallery("g").persons, again.gallery("g").faces) == (2, 2)
    add(again, "newer")
    # Not the number of whoever came after the dump: that one's key is still there.
    assert again.person("g", "newer").key > later
    assert persons(again) == everyone("ann", "eve", "newer")
    again.close()


@pytest.mark.usefixtures("store")
def test_keys_that_are_gone_or_another_databases_are_refused(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute("UPDATE key_file SET id = '0123456789abcdef'")
    with pytest.raises(KeyFileError, match="not those of this database"):
        open_store(postgres_url, GIVEN)
    with psycopg.connect(postgres_url) as connection:
        connection.execute("DELETE FROM likeness_keys.service")
    with pytest.raises(KeyFileError, match="newest copy back"):
        open_store(postgres_url, GIVEN)


def test_a_person_whose_key_is_gone_is_not_there(store: Store, postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute("DELETE FROM likeness_keys.person_keys")
    with pytest.raises(PersonNotFound):
        store.embeddings("g", "bob")
