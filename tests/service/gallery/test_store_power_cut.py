"""The power is cut in the middle of the store's work, on a simulated disk; everything it answered holds.

The store runs unchanged, from ``Store.open`` on; only the driver below SQLAlchemy is another. What a cut leaves is
written to plain files and opened by the store as it is in service. The same disk then goes on to the next cut, so
that cuts in the middle of a recovery are among them.

``LIKENESS_TEST_CUTS`` sets how often; ``LIKENESS_TEST_SEED`` repeats a run.
"""

import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from apsw_driver import Driver
from numpy.typing import NDArray
from simulated_disk import Disk, Image
from sqlalchemy import create_engine

from service.errors import LikenessError
from service.gallery import database
from service.gallery.records import NewFace
from service.gallery.store import Once, Store
from service.security import key_file
from service.security.key_file import FILE_NAME, LIVE, KeyFile
from service.security.master_key import GivenPlace, MasterKey

CUTS = int(os.environ.get("LIKENESS_TEST_CUTS", "20"))
SEED = int(os.environ.get("LIKENESS_TEST_SEED") or int.from_bytes(os.urandom(4), "big"))
DIMENSIONS = {"g": 128, "h": 512}
RESERVE = 2**16
MASTER = GivenPlace(MasterKey(bytes(range(32))).text())


@dataclass(frozen=True)
class Person:
    """What is enrolled of one person: the numbers of the faces, and the idempotency keys that were used."""

    name: str
    faces: frozenset[int] = frozenset()
    keys: frozenset[str] = frozenset()


State = dict[str, dict[str, Person]]
"""Persons by gallery and id."""


def template(number: int, dimension: int) -> NDArray[np.float32]:
    """A template that tells whose it is."""
    return np.full(dimension, number, np.float32)


def open_store(folder: Path) -> Store:
    return Store.open(folder / "gallery.db", RESERVE, KeyFile.open(folder / "keys", MASTER))


def templates_in(folder: Path, sealed: dict[int, NDArray[np.uint64]]) -> set[int]:
    """The numbers of all templates of which any part, as it was sealed, lies in the database or its WAL.

    Looked for are 8 of every 32 bytes. Not in the -shm: a recovery copies memory into it that it has not set (SQLite
    3.40), and the memory of this process has held all templates. A service that starts has none yet.
    """
    raw = b"".join(file.read_bytes() for file in (folder / "gallery.db", folder / "gallery.db-wal")) + bytes(16)
    numbers = np.repeat(list(sealed), [len(part) for part in sealed.values()])
    words = np.concatenate([*sealed.values(), np.zeros(0, np.uint64)])
    found = np.zeros(len(words), bool)
    for shift in range(8):
        found |= np.isin(words, np.frombuffer(raw, np.uint64, len(raw) // 8 - 1, shift))
    return set(numbers[found].tolist())


class Run:
    """A store at work on a simulated disk, cut by cut.

    Attributes:
        answered: changes that were answered so far.
        possible: the states that the disk may be in after the last cut: what was answered, and what was being done.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, seed: int, synchronous: str = "FULL") -> None:
        self.answered = 0
        self.possible: tuple[State, ...] = ({},)
        self._folder = folder
        self._monkeypatch = monkeypatch
        self._pragmas = tuple(pragma.replace("= FULL", f"= {synchronous}") for pragma in database.PRAGMAS)
        self._rng = random.Random(seed)
        self._numbers = count(1)
        self._state: State = {}
        self._image: Image = {}
        self._sealed: dict[int, NDArray[np.uint64]] = {}
        self._folders = (folder / str(number) for number in count())

    def cut(self) -> None:
        """Work until the power is cut."""
        if not self._image or self._rng.random() < 0.15:
            # As the store makes it: the file is there before SQLite opens it, and its folder is synced.
            self._state, self._image, self._sealed = {}, {"gallery.db": b""}, {}
        self.possible = (self._state,)
        at, count_writes = self._rng.choice(
            ((30, True), (300, True), (3000, True), (5, False), (40, False), (200, False))
        )
        disk = Disk(self._image, self._rng, self._rng.randint(1, at), count_writes)
        deletions = self._rng.choice((0.02, 0.3))
        path = next(self._folders) / "gallery.db"
        store = self._open(path, disk)
        while disk.left is None:
            if self._rng.random() < 0.01:
                store.close()
                store = self._open(path, disk)
                continue
            after = {gallery: dict(persons) for gallery, persons in self._state.items()}
            self._change(after, deletions)(store)
            self.possible = (self._state, after)
            if disk.left is None:
                self._state = after
                self.possible = (after,)
                self.answered += 1
        store.close()
        disk.unregister()
        shutil.rmtree(path.parent)
        self._image = disk.left

    def check(self) -> None:
        """Open what the last cut left as the service does; nothing that was answered is missing or half there."""
        folder = next(self._folders)
        (folder / "keys").mkdir(parents=True)
        for name, content in self._image.items():
            (folder / ("keys" if name == FILE_NAME else "") / name).write_bytes(content)
        store = open_store(folder)
        try:
            self._state = read(store)
            assert self._state in self.possible
            alive = {face for persons in self._state.values() for person in persons.values() for face in person.faces}
            assert templates_in(folder, self._sealed) == alive
            check_keys(store)
        finally:
            store.close()
        with closing(sqlite3.connect(folder / "gallery.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        shutil.rmtree(folder)

    def _open(self, path: Path, disk: Disk) -> Store:
        with self._monkeypatch.context() as patch:
            patch.setattr(database, "create_engine", partial(create_engine, module=Driver(disk.name)))
            patch.setattr(database, "PRAGMAS", self._pragmas)
            patch.setattr(key_file, "RawFile", disk.raw)
            if FILE_NAME in self._image:
                # Only that it is there is seen of this one.
                (path.parent / "keys").mkdir(parents=True, exist_ok=True)
                (path.parent / "keys" / FILE_NAME).touch()
            return open_store(path.parent)

    def _change(self, state: State, deletions: float) -> Callable[[Store], object]:
        """Choose a change and make it in ``state``; how to make it in the store."""
        rng = self._rng
        gallery = rng.choice(list(DIMENSIONS))
        if gallery not in state:
            state[gallery] = {}
            return lambda store: store.put_gallery(gallery, None, None, "contract", DIMENSIONS[gallery])
        id = f"p{rng.randrange(12)}"
        number = next(self._numbers)
        person = state[gallery].get(id)
        if person is None or rng.random() < 0.1:
            state[gallery][id] = replace(person or Person(""), name=f"n{number}")
            return lambda store: store.put_person(gallery, id, f"n{number}")
        if rng.random() < deletions:
            kind = rng.choice(("face", "face", "person", "person", "gallery"))
            if kind == "gallery":
                del state[gallery]
                return lambda store: store.delete_gallery(gallery)
            if kind == "face" and person.faces:
                face = rng.choice(sorted(person.faces))
                state[gallery][id] = replace(person, faces=person.faces - {face})
                return lambda store: store.delete_face(gallery, id, f"f{face}")
            del state[gallery][id]
            return lambda store: store.delete_person(gallery, id)
        new = [next(self._numbers) for _ in range(rng.choice((1, 3, 40)))]
        faces = [NewFace(template(face, DIMENSIONS[gallery]), f"f{face}") for face in new]
        once = Once(f"k{number}", "0" * 64)
        state[gallery][id] = replace(person, faces=person.faces | set(new), keys=person.keys | {once.key})
        return partial(self._add, gallery, id, faces, once)

    def _add(self, gallery: str, person: str, faces: list[NewFace], once: Once, store: Store) -> None:
        added = store.add_faces(gallery, person, faces, once).faces
        query = f"SELECT sealed FROM templates_{DIMENSIONS[gallery]} WHERE face_key = ?"
        with store._sessions.read() as connection:
            for face in added:
                sealed = connection.exec_driver_sql(query, (face.key,)).scalar_one()
                self._sealed[int(face.id[1:])] = np.frombuffer(sealed, np.uint64, len(sealed) // 8)[::4]


def check_keys(store: Store) -> None:
    """Whoever is there has a key, and of nobody else is anything left."""
    slots = store.keys.slots()
    with store._sessions.read() as connection:
        persons = {row.key for row in connection.exec_driver_sql("SELECT key FROM persons")}
        last = connection.exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = 'persons'").scalar() or 0
    # Above the last number ever given, a key may be left of a person who was never there.
    used = set((np.flatnonzero(~slots.clean[:last]) + 1).tolist())
    assert used == set((np.flatnonzero(slots.states[:last] == LIVE) + 1).tolist()) == persons


def read(store: Store) -> State:
    """All that the store holds; its templates are what they were, and its counts are right."""
    state: State = {}
    with store._sessions.read() as connection:
        query = "SELECT g.id, e.person, e.key FROM enrolments e JOIN galleries g ON g.key = e.gallery_key"
        used = [tuple(row) for row in connection.exec_driver_sql(query)]
    for gallery in store.galleries().items:
        everyone = {person.key: person for person in store.persons(gallery.id).items}
        faces: dict[str, set[int]] = {person.id: set() for person in everyone.values()}
        for block in store.templates(gallery.key, block=64):
            ids = {key: face for key, (_, face) in store.owners(block.faces).items()}
            for face, person, vector in zip(block.faces, block.persons, block.embeddings, strict=True):
                number = int(ids[int(face)].id[1:])
                assert vector.tobytes() == template(number, DIMENSIONS[gallery.id]).tobytes()
                faces[everyone[int(person)].id].add(number)
        assert {person.id: person.faces for person in everyone.values()} == {id: len(f) for id, f in faces.items()}
        assert (gallery.persons, gallery.faces) == (len(faces), sum(map(len, faces.values())))
        state[gallery.id] = {
            person.id: Person(
                str(person.name),
                frozenset(faces[person.id]),
                frozenset(key for where, whose, key in used if (where, whose) == (gallery.id, person.id)),
            )
            for person in everyone.values()
        }
    return state


def test_what_was_answered_before_a_power_cut_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    print(f"LIKENESS_TEST_SEED={SEED}")
    began = time.monotonic()
    run = Run(tmp_path, monkeypatch, SEED)
    for _ in range(CUTS):
        run.cut()
        run.check()
    print(f"{CUTS} power cuts, {run.answered} answered writes, 0 lost, {time.monotonic() - began:.0f} s")
    assert run.answered > CUTS


@pytest.mark.parametrize("synchronous", ["NORMAL", "OFF"])
def test_a_disk_that_is_not_waited_for_loses_what_was_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synchronous: str
) -> None:
    """With the same work and the same checks: else the disk above would simulate nothing."""

    def loses(seed: int) -> bool:
        run = Run(tmp_path / str(seed), monkeypatch, seed, synchronous)
        run.cut()
        try:
            run.check()
        except (AssertionError, LikenessError, sqlite3.DatabaseError):
            return True
        return False

    assert any(loses(seed) for seed in range(30))
