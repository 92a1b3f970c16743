"""Templates are never on the disk in clear; of a deleted one not even the sealed bytes are, in any file."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from service.gallery.database import open_database
from service.gallery.records import NewFace
from service.gallery.store import Store
from service.gallery.store_session import Sessions
from service.security.key_file import KeyFile
from service.security.master_key import FilePlace

DIMENSION = 128
Sealed = NDArray[np.uint64]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "gallery.db", reserve_bytes=2**16)
    store.put_gallery("g", None, None, "contract", DIMENSION)
    yield store
    store.close()


def add(store: Store, person: str, count: int, rng: np.random.Generator, gallery: str = "g") -> dict[str, Sealed]:
    """Faces with what is known of a photo in very different lengths; by face id, how they lie in the database."""
    store.put_person(gallery, person, metadata={"note": "x" * int(rng.integers(0, 2000))})
    dimension = store.gallery(gallery).dimension
    vectors = rng.standard_normal((count, dimension)).astype(np.float32)
    new = [NewFace(v, None, {"box": "y" * int(rng.choice([0, 9, 300, 2500]))}) for v in vectors]
    added = store.add_faces(gallery, person, new).faces
    folder = store._sessions.path.parent
    assert left(folder, [vector.view(np.uint64) for vector in vectors]) == 0, "in clear"
    with store._sessions.read() as connection:
        query = f"SELECT face_key, sealed FROM templates_{dimension}"
        sealed = {key: np.frombuffer(content[:-4], np.uint64) for key, content in connection.exec_driver_sql(query)}
    return {face.id: sealed[face.key] for face in added}


def left(folder: Path, parts: Iterable[Sealed]) -> int:
    """How many can be found in part: 8 bytes of them, at any place of any file."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "reserve"]
    raw = b"".join(path.read_bytes() for path in files) + bytes(16)
    parts = list(parts)
    found = np.zeros(sum(map(len, parts)), bool)
    for shift in range(8):
        words = np.frombuffer(raw, np.uint64, len(raw) // 8 - 1, shift)
        found |= np.isin(np.concatenate(parts), words[words != 0])
    return sum(bool(of_one.any()) for of_one in np.split(found, np.cumsum([len(part) for part in parts])[:-1]))


def test_faces_persons_and_galleries_leave_nothing(store: Store, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    store.put_gallery("h", None, None, "contract", DIMENSION)
    one, all_of, gallery = (add(store, "ann", 3, rng), add(store, "bob", 5, rng), add(store, "eve", 5, rng, "h"))
    vectors = [*one.values(), *all_of.values(), *gallery.values()]
    assert left(tmp_path, vectors) == len(vectors)
    store.delete_face("g", "ann", next(iter(one)))
    assert left(tmp_path, vectors) == len(vectors) - 1
    store.delete_person("g", "bob")
    assert left(tmp_path, vectors) == len(vectors) - 1 - 5
    store.delete_gallery("h")
    assert left(tmp_path, vectors) == 2


@pytest.mark.parametrize("seed", [1, 2])
def test_a_long_life_of_additions_and_deletions_leaves_nothing(store: Store, tmp_path: Path, seed: int) -> None:
    """Pages fill, split, merge and are used again, in two galleries with templates of two sizes."""
    rng = np.random.default_rng(seed)
    store.put_gallery("h", None, None, "contract", 40)
    alive: dict[tuple[str, str], dict[str, Sealed]] = {}
    dead: list[Sealed] = []
    for step in range(80):
        person = ("gh"[step % 2], f"p{step}")
        alive[person] = add(store, person[1], int(rng.integers(1, 30)), rng, person[0])
        if step % 3 == 2:
            gone = list(alive)[int(rng.integers(len(alive)))]
            store.delete_person(*gone)
            dead += alive.pop(gone).values()
        victim = list(alive)[int(rng.integers(len(alive)))]
        face = sorted(alive[victim])[0]
        store.delete_face(*victim, face)
        dead.append(alive[victim].pop(face))
        if not alive[victim]:
            del alive[victim]
    assert len(dead) > 200
    assert left(tmp_path, dead) == 0
    living = [vector for faces in alive.values() for vector in faces.values()]
    assert left(tmp_path, living) == len(living)


def test_a_gallery_of_many_steps_leaves_nothing(store: Store, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    vectors = [*add(store, "ann", 1500, rng).values(), *add(store, "bob", 1, rng).values()]
    kept = store.put_gallery("kept", None, None, "contract", DIMENSION)[0]
    store.delete_gallery("g")
    assert left(tmp_path, vectors) == 0
    assert store.galleries().items == (kept,)


def test_a_deletion_that_was_cut_off_is_finished_when_the_store_opens(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "gallery.db", reserve_bytes=2**16)
    store.put_gallery("g", None, None, "contract", DIMENSION)
    vectors = add(store, "ann", 700, np.random.default_rng(4)).values()
    key = store.gallery("g").key
    # As if killed just after the first step.
    store._delete_condemned = lambda _: None  # type: ignore[method-assign]
    store.delete_gallery("g")
    assert left(tmp_path, vectors) == 700
    store.close()
    store = Store.open(tmp_path / "gallery.db", reserve_bytes=2**16)
    assert left(tmp_path, vectors) == 0
    assert store.face_keys(key)[0].size == 0
    store.close()


def test_a_reader_holds_the_wal_and_then_lets_go(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "gallery.db", reserve_bytes=2**16)
    store.put_gallery("g", None, None, "contract", DIMENSION)
    vectors = add(store, "ann", 3, np.random.default_rng(5))
    with closing(sqlite3.connect(tmp_path / "gallery.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM faces").fetchone()
        sessions = store._sessions
        sessions.delete(lambda c: c.exec_driver_sql("DELETE FROM faces"))
        assert not sessions.erase(patience_s=0.2)
        assert left(tmp_path, vectors.values()) == 3
        reader.execute("COMMIT")
        assert sessions.erase()
    assert left(tmp_path, vectors.values()) == 0
    store.close()


def test_an_erasure_that_fails_is_no_error_of_the_deletion(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = KeyFile.open(tmp_path / "keys", FilePlace(tmp_path / "keys" / "master.key"))
    sessions = Sessions(open_database(tmp_path / "gallery.db", keys), 2**10)
    sessions._reserve.path = tmp_path / "missing" / "reserve"
    assert not sessions.erase()
    assert "could not be emptied" in caplog.text
    sessions.close()
    keys.close()
