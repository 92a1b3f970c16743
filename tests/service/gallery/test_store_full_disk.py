"""A disk that is really full: a small tmpfs. Adding fails cleanly, reading and deleting go on."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from service.errors import InsufficientStorage
from service.gallery.records import NewFace
from service.gallery.store import Store

DIMENSION = 512
RESERVE = 6 * 2**20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "likeness-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def store(disk: Path) -> Iterator[Store]:
    (disk / "filler").write_bytes(bytes(8 * 2**20))
    store = Store.open(disk / "data" / "gallery.db", RESERVE)
    store.put_gallery("g", None, None, "contract", DIMENSION)
    yield store
    store.close()


def add(store: Store, person: str, count: int = 20) -> None:
    vectors = np.random.default_rng(list(person.encode())).standard_normal((count, DIMENSION)).astype(np.float32)
    store.add_faces("g", person, [NewFace(vector) for vector in vectors])


def fill(store: Store) -> list[str]:
    """Add persons until there is no more room; those that were added."""
    added: list[str] = []
    with pytest.raises(InsufficientStorage, match="is full; nothing was written"):
        add_for_ever(store, added)
    return added


def add_for_ever(store: Store, added: list[str]) -> None:
    while True:
        person = f"p{len(added)}"
        store.put_person("g", person)
        add(store, person)
        added.append(person)


def faces_in(store: Store) -> int:
    return sum(len(block.faces) for block in store.templates(store.gallery("g").key))


def take_the_rest(disk: Path) -> None:
    """Leave not a byte."""
    with (disk / "more").open("wb", buffering=0) as more:
        while os.statvfs(disk).f_bavail:
            more.write(bytes(4096))


def test_a_full_disk_and_back(store: Store, disk: Path) -> None:
    added = fill(store)
    assert len(added) > 10
    before = store.gallery("g")
    for _ in range(3):
        with pytest.raises(InsufficientStorage):
            add(store, added[0], 2000)
    assert store.gallery("g") == before
    assert faces_in(store) == before.faces == 20 * len(added)
    take_the_rest(disk)
    for person in added[: len(added) // 2]:
        assert len(store.delete_person("g", person)) == 20
    face = store.faces("g", added[-1]).items[0]
    store.delete_face("g", added[-1], face.id)
    assert faces_in(store) == 20 * (len(added) - len(added) // 2) - 1
    assert (disk / "data" / "gallery.db-wal").stat().st_size == 0
    (disk / "filler").unlink()
    store.put_person("g", "new")
    add(store, "new")
    assert store.person("g", "new").faces == 20
    assert (disk / "data" / "reserve").stat().st_size == RESERVE


def test_a_whole_gallery_is_deleted_on_a_full_disk(store: Store, disk: Path) -> None:
    fill(store)
    take_the_rest(disk)
    store.delete_gallery("g")
    assert store.galleries().items == ()
    assert (disk / "data" / "gallery.db-wal").stat().st_size == 0


def test_a_store_opens_on_a_full_disk(store: Store, disk: Path) -> None:
    added = fill(store)
    store.close()
    take_the_rest(disk)
    again = Store.open(disk / "data" / "gallery.db", RESERVE)
    try:
        assert faces_in(again) == 20 * len(added)
        again.delete_person("g", added[0])
        assert faces_in(again) == 20 * (len(added) - 1)
    finally:
        again.close()
