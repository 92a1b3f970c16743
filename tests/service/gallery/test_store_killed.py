"""A real process is killed with SIGKILL in the middle of its writes; everything it answered holds afterwards."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.gallery.dialects import last_person
from service.gallery.records import NewFace
from service.gallery.store import Store
from service.security.key_file import LIVE

KILLS = int(os.environ.get("LIKENESS_TEST_KILLS", "5"))
DIMENSION = 512


def vectors_of(person: str) -> NDArray[np.float32]:
    """The faces of a person, 1 to 3, known from the name alone."""
    rng = np.random.default_rng(list(person.encode()))
    return rng.standard_normal((int(rng.integers(1, 4)), DIMENSION)).astype(np.float32)


def work(path: Path, run: str) -> None:
    """Add and delete for ever. A line before each write and one after it: "try add p", "did add p"."""
    store = Store.open(path, reserve_bytes=2**20)
    store.put_gallery("g", None, None, "contract", DIMENSION)
    rng = np.random.default_rng(list(run.encode()))
    alive: list[str] = []
    number = 0
    while True:
        if alive and rng.random() < 0.4:
            person = alive.pop(int(rng.integers(len(alive))))
            print("try delete", person, flush=True)
            store.delete_person("g", person)
            print("did delete", person, flush=True)
        else:
            person = f"{run}-{(number := number + 1)}"
            store.put_person("g", person)
            print("try add", person, flush=True)
            store.add_faces("g", person, [NewFace(v, f"{person}.{n}") for n, v in enumerate(vectors_of(person))])
            print("did add", person, flush=True)
            alive.append(person)


def run_and_kill(path: Path, run: str, after_s: float) -> list[list[str]]:
    """What the process said until it was killed, ``after_s`` seconds after its first write."""
    command = [sys.executable, __file__, str(path), run]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(after_s)
        process.kill()
        rest = process.stdout.read()
    lines = (first + rest).split("\n")[:-1]  # a line that was cut off says nothing
    return [line.split() for line in lines]


def check(store: Store, expected: dict[str, bool | None]) -> None:
    """``expected``: whether each person has faces, None where it is unknown. Settles the unknown ones."""
    key = store.gallery("g").key
    names = {person.key: person.id for person, _ in store.owners(store.face_keys(key)[0]).values()}
    found: dict[str, list[bytes]] = {}
    for block in store.templates(key, block=50):
        for person, vector in zip(block.persons, block.embeddings, strict=True):
            found.setdefault(names[int(person)], []).append(vector.tobytes())
    for person, there in expected.items():
        whole = [vector.tobytes() for vector in vectors_of(person)]
        assert found.get(person, []) in ([whole] if there else [[]] if there is False else [whole, []]), person
        expected[person] = person in found
    assert set(found) <= set(expected)
    assert store.gallery("g").faces == sum(map(len, found.values()))


def test_what_was_answered_before_a_kill_holds(tmp_path: Path) -> None:
    path = tmp_path / "gallery.db"
    rng = np.random.default_rng(6)
    expected: dict[str, bool | None] = {}
    answered = 0
    for kill in range(KILLS):
        for said, what, person in run_and_kill(path, f"r{kill}", float(rng.uniform(0.1, 0.6))):
            answered += said == "did"
            expected[person] = None if said == "try" else what == "add"
        store = Store.open(path, reserve_bytes=2**20)
        check(store, expected)
        raw = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file() and file.name != "reserve")
        assert not any(vector.tobytes()[:16] in raw for person in expected for vector in vectors_of(person))
        slots = store.keys.slots()
        with_key = set((np.flatnonzero(slots.states == LIVE) + 1).tolist())
        # A kill between a key and the row of its person leaves a key of a number that no person has had.
        with store._sessions.read() as connection:
            reached = last_person(connection)
        never_used = {number for number in with_key if number > reached}
        assert len(never_used) <= 1
        assert with_key - never_used == set(store.person_keys("g").tolist())
        assert slots.clean.sum() == len(slots.clean) - len(with_key)
        store.close()
    assert answered > 4 * KILLS


if __name__ == "__main__":
    work(Path(sys.argv[1]), sys.argv[2])
