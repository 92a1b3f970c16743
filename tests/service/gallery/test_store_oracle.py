"""Random operations against plain dicts, and several threads at once."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import Conflict, GalleryNotFound, LikenessError, PersonNotFound
from service.gallery.records import NewFace
from service.gallery.store import Once, Store

DIMENSIONS = {"g0": 4, "g1": 4, "g2": 24}
Gallery = dict[str, dict[str, np.ndarray[Any, Any]]]


class Oracle:
    """The same galleries as dicts: gallery -> person -> face id -> embedding."""

    def __init__(self, store: Store, seed: int) -> None:
        self.store = store
        self.rng = np.random.default_rng(seed)
        self.galleries: dict[str, Gallery] = {}
        self.revisions: dict[str, int] = {}

    def step(self) -> None:
        gallery = str(self.rng.choice(list(DIMENSIONS)))
        person = f"p{self.rng.integers(6)}"
        names = ["put_gallery", "put_person", "add", "delete_face", "delete_person", "delete_gallery"]
        action = self.rng.choice(names, p=[0.1, 0.2, 0.4, 0.18, 0.1, 0.02])
        if action != "put_gallery" and gallery not in self.galleries:
            with pytest.raises(GalleryNotFound):
                self.store.put_person(gallery, person)
            return
        getattr(self, action)(gallery, person)

    def put_gallery(self, gallery: str, _: str) -> None:
        made = self.store.put_gallery(gallery, None, None, "contract", DIMENSIONS[gallery])[1]
        assert made == (gallery not in self.galleries)
        self.galleries.setdefault(gallery, {})
        self.revisions.setdefault(gallery, 0)

    def put_person(self, gallery: str, person: str) -> None:
        made = self.store.put_person(gallery, person)[1]
        assert made == (person not in self.galleries[gallery])
        self.galleries[gallery].setdefault(person, {})
        self.revisions[gallery] += 1

    def add(self, gallery: str, person: str) -> None:
        count = int(self.rng.integers(1, 9))
        vectors = self.rng.standard_normal((count, DIMENSIONS[gallery])).astype(np.float32)
        ids = [f"f{n}" for n in self.rng.integers(0, 400, count)]
        taken = {id for faces in self.galleries[gallery].values() for id in faces}
        new = [NewFace(vector, id) for vector, id in zip(vectors, ids, strict=True)]
        if person not in self.galleries[gallery]:
            with pytest.raises(PersonNotFound):
                self.store.add_faces(gallery, person, new)
        elif len(set(ids)) < count or taken & set(ids):
            with pytest.raises(Conflict):
                self.store.add_faces(gallery, person, new)
        else:
            self.store.add_faces(gallery, person, new)
            self.galleries[gallery][person] |= dict(zip(ids, vectors, strict=True))
            self.revisions[gallery] += 1

    def delete_face(self, gallery: str, person: str) -> None:
        faces = self.galleries[gallery].get(person)
        if faces:
            id = str(self.rng.choice(sorted(faces)))
            self.store.delete_face(gallery, person, id)
            del faces[id]
            self.revisions[gallery] += 1

    def delete_person(self, gallery: str, person: str) -> None:
        if person not in self.galleries[gallery]:
            with pytest.raises(PersonNotFound):
                self.store.delete_person(gallery, person)
            return
        assert len(self.store.delete_person(gallery, person)) == len(self.galleries[gallery].pop(person))
        self.revisions[gallery] += 1

    def delete_gallery(self, gallery: str, _: str) -> None:
        self.store.delete_gallery(gallery)
        del self.galleries[gallery], self.revisions[gallery]

    def check(self) -> None:
        assert {gallery.id for gallery in self.store.galleries().items} == set(self.galleries)
        for id, persons in self.galleries.items():
            record = self.store.gallery(id)
            everyone = {person.key: person for person in self.store.persons(id).items}
            assert {person.id: person.faces for person in everyone.values()} == {p: len(f) for p, f in persons.items()}
            assert (record.persons, record.faces) == (len(persons), sum(map(len, persons.values())))
            assert record.revision == self.revisions[id]
            found: dict[tuple[str, str], bytes] = {}
            for block in self.store.templates(record.key, block=7):
                faces = {key: face for key, (_, face) in self.store.owners(block.faces).items()}
                for face, person, vector in zip(block.faces, block.persons, block.embeddings, strict=True):
                    found[everyone[int(person)].id, faces[int(face)].id] = vector.tobytes()
            assert found == {(p, id): v.tobytes() for p, faces in persons.items() for id, v in faces.items()}


@pytest.mark.parametrize("seed", [1, 2])
def test_random_operations_agree_with_dicts(store_in: Callable[[Path], Store], tmp_path: Path, seed: int) -> None:
    store = store_in(tmp_path)
    oracle = Oracle(store, seed)
    for step in range(300):
        oracle.step()
        if step % 25 == 0:
            oracle.check()
        if step % 100 == 99:
            store.close()
            store = oracle.store = store_in(tmp_path)
    oracle.check()
    store.close()


def test_four_threads_at_once(store_in: Callable[[Path], Store], tmp_path: Path) -> None:
    """Each with persons of its own, all with the same idempotency keys, and readers in between."""
    store = store_in(tmp_path)
    key = store.put_gallery("g", None, None, "contract", 8)[0].key
    store.put_person("g", "shared")
    kept: list[set[int]] = [set() for _ in range(4)]
    first: list[bool] = []
    failures: list[BaseException] = []

    def work(thread: int) -> None:
        rng = np.random.default_rng(thread)
        try:
            for n in range(25):
                new = [NewFace(rng.standard_normal(8).astype(np.float32)) for _ in range(2)]
                once = Once(f"k{n}", "a" * 64)
                first.append(not store.add_faces("g", "shared", new[:1], once, lambda _: {}).repeated)
                store.put_person("g", f"t{thread}-{n}", metadata={"thread": thread})
                added = store.add_faces("g", f"t{thread}-{n}", new).faces
                store.delete_face("g", f"t{thread}-{n}", added[0].id)
                kept[thread].add(added[1].key)
                if n % 3 == 0:
                    kept[thread] -= set(store.delete_person("g", f"t{thread}-{n}"))
                seen = np.concatenate([block.faces for block in store.templates(key, block=16)])
                assert (np.diff(seen) > 0).all()
                assert kept[thread] <= set(seen.tolist())
        except (LikenessError, AssertionError) as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sum(first) == 25
    shared = set(store.owners(store.face_keys(key)[0])) - set.union(*kept)
    assert len(shared) == store.person("g", "shared").faces == 25
    assert store.gallery("g").faces == 25 + sum(map(len, kept))
    store.close()
