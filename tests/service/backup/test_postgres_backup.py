"""Backup, restore and going back in time with a real PostgreSQL and its own programs."""

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from fastapi.testclient import TestClient

from service.api.app import create_app
from service.cli.main import EXIT_UNAVAILABLE, EXIT_WRONG_USE, main
from service.cli.places import guarding
from service.engine import Engine
from service.gallery.gallery import Galleries
from service.gallery.records import NewFace
from service.gallery.store import Store
from service.postgres.store import open_store
from service.security.master_key import GivenPlace, MasterKey
from service.settings import Settings
from tests.postgres_server import PostgresServer, programs
from tests.service.backup.test_embedded_backup import vector_of

MASTER = MasterKey(bytes(range(32))).text()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a command on a database; what it printed as JSON, or what it said."""

    def run(url: str, *words: str, code: int = 0) -> Any:
        monkeypatch.setenv("LIKENESS_DATABASE_URL", url)
        monkeypatch.setenv("LIKENESS_MASTER_KEY", MASTER)
        capsys.readouterr()
        assert main([*words, "--json"]) == code
        said = capsys.readouterr()
        return json.loads(said.out) if code == 0 else said.err

    return run


@pytest.fixture
def empty(postgres_server: PostgresServer) -> Iterator[str]:
    with postgres_server.database() as name:
        yield postgres_server.url(name)


def opened(url: str) -> Store:
    return open_store(url, GivenPlace(MASTER))


def add(store: Store, person: str) -> None:
    store.put_person("g", person)
    store.add_faces("g", person, [NewFace(vector_of(person), f"f-{person}")])


def filled(url: str) -> Store:
    store = opened(url)
    store.put_gallery("g", None, None, "contract", 8)
    for person in ("ann", "bob", "eve"):
        add(store, person)
    return store


def persons(url: str) -> set[str]:
    store = opened(url)
    try:
        found = {person.id for person in store.persons("g").items}
        for person in found:
            np.testing.assert_array_equal(store.embeddings("g", person), [vector_of(person)])
        return found
    finally:
        store.close()


def words(what: str, tmp_path: Path, *more: str) -> list[str]:
    places = [str(tmp_path / "archive"), "--keys", str(tmp_path / "safe"), "--postgres-programs", str(programs())]
    return [what, *places, *more]


def test_a_dump_is_restored_and_the_erased_stay_erased(
    postgres_url: str, empty: str, tmp_path: Path, command: Callable[..., Any]
) -> None:
    key = command(postgres_url, "keys", "create", "--name", "first")
    store = filled(postgres_url)
    made = command(postgres_url, *words("backup", tmp_path))
    assert (made["galleries"], made["persons"], made["faces"], made["engine"]) == (1, 3, 3, "postgresql")
    store.delete_person("g", "bob")
    command(postgres_url, "keys", "revoke", key["id"])
    add(store, "new")
    command(postgres_url, *words("backup", tmp_path))
    with psycopg.connect(postgres_url) as connection:
        wrapped = connection.execute("SELECT wrapped FROM likeness_keys.person_keys").fetchall()
    store.close()
    archived = b"".join(path.read_bytes() for path in (tmp_path / "archive").rglob("*") if path.is_file())
    assert len(wrapped) == 3
    assert not any(key[-16:] in archived or key.hex().encode()[-32:] in archived for (key,) in wrapped)
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "safe").iterdir())
    told = command(empty, *words("restore", tmp_path, "--at", made["at"]))
    assert (told["persons"], told["faces"], told["erased_again"]) == (2, 2, 1)
    assert persons(empty) == {"ann", "eve"}
    assert command(empty, "keys", "list")["keys"] == [], "what was revoked stays so"
    store = opened(empty)
    add(store, "one-more")
    store.close()
    assert persons(empty) == {"ann", "eve", "one-more"}
    assert "nothing is restored over" in command(empty, *words("restore", tmp_path), code=EXIT_WRONG_USE)


def test_what_cannot_be_is_said(postgres_url: str, empty: str, tmp_path: Path, command: Callable[..., Any]) -> None:
    filled(postgres_url).close()
    nowhere = words("backup", tmp_path)
    nowhere[-1] = str(tmp_path)
    assert "pg_dump is not in" in command(postgres_url, *nowhere, code=EXIT_WRONG_USE)
    assert "no backup" in command(empty, *words("restore", tmp_path), code=EXIT_WRONG_USE)
    wrong = postgres_url.replace(postgres_url.split(":")[2].split("@")[0], "wrong")
    said = command(wrong, *words("backup", tmp_path), code=EXIT_UNAVAILABLE)
    assert "password" in said
    assert not list((tmp_path / "archive").glob("*.json"))
    assert "no gallery in this database" in command(empty, *words("backup", tmp_path), code=EXIT_UNAVAILABLE)


def test_going_back_in_time_brings_back_nobody_who_was_erased(
    tmp_path: Path, command: Callable[..., Any], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL's base backup and archived log; the deletions after that time come from the audit log."""
    server = PostgresServer(durable=False)
    archive = server.folder / "archived"
    archive.mkdir()
    archive.chmod(0o777)
    server.options |= {"archive_mode": "on", "archive_command": f"cp %p {archive}/%f", "wal_level": "replica"}
    again = PostgresServer(durable=False)
    again.password = server.password
    try:
        server.make()
        with server.database() as name:
            url = server.url(name)
            store = filled(url)
            source = server.url("postgres", "postgres")
            server.run("pg_basebackup", "--pgdata", server.folder / "base", "--dbname", source, "--checkpoint=fast")
            add(store, "new")
            moment = datetime.now(UTC)
            time.sleep(0.01)
            monkeypatch.setenv("LIKENESS_DATABASE_URL", url)
            monkeypatch.setenv("LIKENESS_MASTER_KEY", MASTER)
            galleries = Galleries(store, "contract", 8)
            with guarding(Settings(auth=False), store.keys) as guard:
                client = TestClient(create_app(engine, Settings(), galleries, guard=guard))
                with client:
                    while client.get("/v1/health/ready").status_code == 503:
                        time.sleep(0.01)
                    for path in ("/bob", "/new", "/eve/faces/f-eve"):
                        assert client.delete(f"/v1/galleries/g/persons{path}").status_code == 204
                    assert client.put("/v1/galleries/g/persons/late").status_code == 201
            log = tmp_path / "audit.lines"
            log.write_text("".join(f"{line}\n" for line in _lines(url)))
            store.close()
            with server.connect() as connection:
                connection.execute("SELECT pg_switch_wal()")
            _wait_for(lambda: not list((server.data / "pg_wal" / "archive_status").glob("*.ready")))
        server.stop()
        (server.folder / "base").rename(again.data)
        (again.data / "recovery.signal").touch()
        again.options |= {
            "restore_command": f"cp {archive}/%f %p",
            "recovery_target_time": moment.isoformat(sep=" "),
            "recovery_target_action": "promote",
        }
        again.start()
        with again.connect() as connection:
            _wait_for(lambda: connection.execute("SELECT pg_is_in_recovery()").fetchone() == (False,))
        back = again.url(name)
        assert persons(back) == {"ann", "bob", "eve", "new"}
        told = command(back, "erase-again", str(log), "--since", moment.isoformat())
        assert told == {"erased": 3}
        store = opened(back)
        assert [(person.id, person.faces) for person in store.persons("g").items] == [("ann", 1), ("eve", 0)]
        store.close()
        assert command(back, "erase-again", str(log), "--since", moment.isoformat()) == {"erased": 0}
        log.write_text(log.read_text().replace('"bob"', '"ann"'))
        assert "changed" in command(back, "erase-again", str(log), "--since", "2020-01-01", code=EXIT_UNAVAILABLE)
    finally:
        again.remove()
        server.remove()


def _lines(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [line for (line,) in connection.execute("SELECT line FROM audit_lines ORDER BY seq")]


def _wait_for(true: Callable[[], bool], patience_s: float = 60) -> None:
    deadline = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
