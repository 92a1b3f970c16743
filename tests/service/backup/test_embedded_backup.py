"""``likeness backup`` and ``likeness restore`` of a data folder: real commands, a real service, real kills."""

import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from service.backup import newest
from service.cli.main import EXIT_UNAVAILABLE, EXIT_WRONG_USE, main
from service.gallery.records import NewFace
from service.gallery.store import Store
from service.security import audit_file, audit_log
from service.security.key_file import KeyFile, KeyFileError
from service.security.master_key import FilePlace


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a command; what it printed as JSON, or its exit code and what it said."""

    def run(*words: str, code: int = 0) -> Any:
        capsys.readouterr()
        assert main([*words, "--json"]) == code
        said = capsys.readouterr()
        return json.loads(said.out) if code == 0 else said.err

    return run


def opened(folder: Path) -> Store:
    keys = KeyFile.open(folder / "keys", FilePlace(folder / "keys" / "master.key"))
    return Store.open(folder / "gallery" / "gallery.db", 2**16, keys)


def add(store: Store, person: str) -> None:
    store.put_person("g", person)
    store.add_faces("g", person, [NewFace(vector_of(person))])


def vector_of(person: str, dimension: int = 8) -> np.ndarray:
    vector = np.random.default_rng(list(person.encode())).standard_normal(dimension)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def persons(folder: Path) -> set[str]:
    """Who is in a data folder, each with the right template."""
    store = opened(folder)
    try:
        found = {person.id for person in store.persons("g", limit=1000).items}
        for person in found:
            np.testing.assert_array_equal(store.embeddings("g", person), [vector_of(person)])
        return found
    finally:
        store.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    store = opened(folder)
    store.put_gallery("g", None, None, "contract", 8)
    for person in ("ann", "bob", "eve"):
        add(store, person)
    store.close()
    return folder


def words(tmp_path: Path, to: str = "restored", *more: str) -> list[str]:
    return [
        *("restore", str(tmp_path / "archive"), "--keys", str(tmp_path / "safe")),
        *("--data-dir", str(tmp_path / to), "--master-key-file", str(tmp_path / "data" / "keys" / "master.key"), *more),
    ]


def back_up(tmp_path: Path, *more: str) -> list[str]:
    data = str(tmp_path / "data")
    return ["backup", str(tmp_path / "archive"), "--keys", str(tmp_path / "safe"), "--data-dir", data, *more]


def test_each_backup_is_a_point_in_time_and_the_erased_stay_erased(
    data: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    made = command(*back_up(tmp_path))
    assert (made["galleries"], made["persons"], made["faces"]) == (1, 3, 3)
    store = opened(data)
    add(store, "new")
    command(*back_up(tmp_path))
    between = datetime.now(UTC).isoformat()
    store.delete_person("g", "bob")
    add(store, "newer")
    store.close()
    command(*back_up(tmp_path))
    assert len(command(*words(tmp_path, "x", "--list"))["backups"]) == 3
    for to, moment, expected, again in (
        ("first", made["at"], {"ann", "eve"}, 1),
        ("second", between, {"ann", "eve", "new"}, 1),
        ("last", None, {"ann", "eve", "new", "newer"}, 0),
    ):
        told = command(*words(tmp_path, to, *(["--at", moment] if moment else [])))
        assert (told["persons"], told["faces"], told["erased_again"]) == (len(expected), len(expected), again)
        assert persons(tmp_path / to) == expected
    store = opened(tmp_path / "first")
    add(store, "one-more")
    store.close()
    assert persons(tmp_path / "first") == {"ann", "eve", "one-more"}


def test_a_backup_has_no_key_and_is_nobodys_but_the_owners(
    data: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    command(*back_up(tmp_path))
    keys = (data / "keys" / "persons.keys").read_bytes()
    archived = b"".join(path.read_bytes() for path in (tmp_path / "archive").rglob("*") if path.is_file())
    everything = archived + b"".join(path.read_bytes() for path in (tmp_path / "safe").rglob("*") if path.is_file())
    for person in range(1, 4):
        assert keys[(7 + person) * 64 :][:64][16:] not in archived
    for person in ("ann", "bob", "eve"):
        assert vector_of(person).tobytes() not in everything
    assert (data / "keys" / "master.key").read_bytes() not in everything
    for folder in (tmp_path / "archive", tmp_path / "safe"):
        assert all(path.stat().st_mode & 0o077 == 0 for path in [folder, *folder.rglob("*")])


@pytest.mark.usefixtures("data")
def test_only_the_newest_backups_are_kept(tmp_path: Path, command: Callable[..., Any]) -> None:
    for _ in range(4):
        made = command(*back_up(tmp_path, "--keep", "2"))
    assert (made["pruned"], made["new_bytes"]) == (1, 0)
    assert len(command(*words(tmp_path, "x", "--list"))["backups"]) == 2
    command(*words(tmp_path))


def test_nothing_is_restored_over_anything(data: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    command(*back_up(tmp_path))
    store = opened(data)
    assert "Another process works" in command(*words(tmp_path, "data"), code=EXIT_UNAVAILABLE)
    store.close()
    before = persons(data)
    assert "not empty" in command(*words(tmp_path, "data"), code=EXIT_WRONG_USE)
    assert persons(data) == before
    (tmp_path / "half" / "restoring").mkdir(parents=True)
    assert "cut off" in command(*words(tmp_path, "half"), code=EXIT_WRONG_USE)
    (tmp_path / "with-bundles" / "bundles").mkdir(parents=True)
    command(*words(tmp_path, "with-bundles"))


def test_what_does_not_belong_together_is_refused_and_leaves_nothing(
    data: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    command(*back_up(tmp_path))
    for wrong in (tmp_path / "archive" / "keys", data / "keys", tmp_path):
        assert "apart" in command(*back_up(tmp_path, "--keys", str(wrong)), code=EXIT_WRONG_USE)
    missing = [word for word in words(tmp_path) if "master" not in word]
    assert "--master-key-file" in command(*missing, code=EXIT_WRONG_USE)
    shutil.copytree(tmp_path / "safe", tmp_path / "old")
    store = opened(data)
    add(store, "new")
    store.close()
    command(*back_up(tmp_path))
    old = command(*words(tmp_path, "restored", "--keys", str(tmp_path / "old")), code=EXIT_UNAVAILABLE)
    assert "1 persons" in old
    other = opened(tmp_path / "other")
    other.close()
    others = str(tmp_path / "other" / "keys")
    assert "not those" in command(*words(tmp_path, "restored", "--keys", others), code=EXIT_UNAVAILABLE)
    assert command(*words(tmp_path, "restored", "--at", "2020-01-01"), code=EXIT_WRONG_USE)
    # The last one made is one of the newest backup; others may be of the one before alone.
    piece = max((tmp_path / "archive" / "pieces").glob("*/*"), key=lambda path: path.stat().st_mtime_ns)
    content = piece.read_bytes()
    piece.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert piece.name in command(*words(tmp_path), code=EXIT_UNAVAILABLE)
    piece.write_bytes(content)
    assert not any((tmp_path / "restored").iterdir())
    command(*words(tmp_path))
    assert command("backup", str(tmp_path / "a"), "--keys", str(tmp_path / "k"), "--data-dir", str(tmp_path / "none"),
                   code=EXIT_UNAVAILABLE)  # fmt: skip


def test_a_damaged_database_is_not_backed_up(data: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    with (data / "gallery" / "gallery.db").open("r+b") as stream:
        stream.seek(3 * 8192)
        stream.write(os.urandom(8192))
    assert "damaged" in command(*back_up(tmp_path), code=EXIT_UNAVAILABLE)
    assert not list((tmp_path / "archive").glob("*.json"))
    assert not (tmp_path / "archive" / "copying").exists()


def test_a_key_that_is_half_overwritten_is_read_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, numbers = data / "keys" / "persons.keys", np.arange(1, 4)
    whole = path.read_bytes()
    tombstone = bytes([2]).ljust(64, b"\0")
    torn, gone = whole[:512] + tombstone[:8] + whole[520:], whole[:512] + tombstone + whole[576:]
    looks = iter([whole, torn, gone, gone])
    look_at = newest.look_at

    def looking(path: Path) -> Any:
        path.write_bytes(next(looks))
        return look_at(path)

    monkeypatch.setattr(newest, "look_at", looking)
    assert newest.read_keys(path, numbers).content == gone
    endless = [whole, torn] * 10
    looks = iter(endless)
    with pytest.raises(KeyFileError, match="changes faster"):
        newest.read_keys(path, numbers)


def test_a_service_that_is_killed_is_restored_elsewhere_with_all_that_was_answered(
    served: Callable[..., Any], data_dir: Path, tmp_path: Path, command: Callable[..., Any], engine: Any
) -> None:
    data = tmp_path / "data"
    contract, dimension = engine.card.embedding_contract, engine.card.contract.dimension
    first = command("keys", "create", "--name", "first", "--data-dir", str(data))
    headers = {"authorization": f"Bearer {first['key']}"}
    answered: list[str] = []
    stop = threading.Event()

    def write(url: str) -> None:
        with httpx2.Client(base_url=f"{url}/v1/galleries/g/persons", headers=headers, timeout=20) as http:
            while not stop.is_set():
                person = f"p{len(answered)}"
                http.put(f"/{person}").raise_for_status()
                vector = vector_of(person, dimension).tolist()
                body = {"embeddings": [{"embedding": vector}], "embedding_contract": contract}
                http.post(f"/{person}/faces", json=body).raise_for_status()
                answered.append(person)
                if len(answered) % 5 == 0:
                    http.delete(f"/{answered[-1]}").raise_for_status()

    def found(url: str, person: str) -> Any:
        vector = vector_of(person, dimension).tolist()
        body = {"embedding": vector, "embedding_contract": contract, "threshold": 0.99}
        return httpx2.post(f"{url}/v1/galleries/g/search", headers=headers, json=body).json()["probes"]

    with served(data_dir, data, auth=True) as server:
        httpx2.put(f"{server.url}/v1/galleries/g", headers=headers).raise_for_status()
        writer = threading.Thread(target=write, args=(server.url,))
        writer.start()
        try:
            while len(answered) < 20:
                assert writer.is_alive()
                stop.wait(0.01)
            before = list(answered)
            made = command(*back_up(tmp_path))
            while len(answered) < made["persons"] + 5:
                assert writer.is_alive()
                stop.wait(0.01)
        finally:
            stop.set()
            writer.join()
        # All of it by now, which is what the restored one must answer.
        command(*back_up(tmp_path))
        there = {person: found(server.url, person) for person in answered}
        erased = [person for number, person in enumerate(answered, 1) if number % 5 == 0]
        server.process.kill()
        server.process.wait()
    master = tmp_path / "master.key"
    shutil.move(data / "keys" / "master.key", master)
    shutil.rmtree(data)
    for to, moment, expected in (("now", None, answered), ("then", made["at"], before)):
        command(*words(tmp_path, to, "--master-key-file", str(master), *(["--at", moment] if moment else [])))
        with served(data_dir, tmp_path / to, auth=True) as server:
            for person in expected:
                candidates = found(server.url, person)
                if moment is None:
                    assert candidates == there[person]
                assert bool(candidates[0]["decision"] == "identified") == (person not in erased)
        store = opened(tmp_path / to)
        log_key = store.keys.derived(audit_log.PURPOSE)
        store.close()
        assert audit_file.verify(tmp_path / to / "audit", log_key).lines > len(answered)


def test_the_copy_is_of_one_moment_and_sound(data: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    store = opened(data)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            add(store, f"w{number}")
            if number % 3 == 0:
                store.delete_person("g", f"w{number}")
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5):
            command(*back_up(tmp_path))
    finally:
        stop.set()
        writer.join()
        store.close()
    for number, backup in enumerate(command(*words(tmp_path, "x", "--list"))["backups"]):
        told = command(*words(tmp_path, f"r{number}", "--at", backup["at"]))
        assert told["persons"] + told["erased_again"] == backup["persons"]
        with closing(sqlite3.connect(tmp_path / f"r{number}" / "gallery" / "gallery.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
