"""Store and index together under random operations, against a plain dict and float64 numpy.

On PostgreSQL, where replicas search otherwise, ``tests/service/postgres/test_replicas_oracle.py`` does the same.

Small blocks and early compaction, so that a few dozen faces pass through all that a million would.
"""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from service.errors import Conflict, FaceIdNotFound, GalleryNotFound, PersonNotFound
from service.gallery import flat_index, segment
from service.gallery.gallery import Galleries
from service.gallery.records import NewFace
from service.gallery.store import Once, Store

CONTRACT, DIMENSION = "c" * 64, 16
GALLERY = st.sampled_from(["a", "b"])
PERSON = st.sampled_from([f"p{i}" for i in range(6)])
FACE = st.sampled_from([f"f{i}" for i in range(30)])
SITE = st.sampled_from(["north", "south"])
SEED = st.integers(0, 2**32 - 1)


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def template(faces):
    """The mean of faces, of unit length in float32, whatever their order; one is its own."""
    if len(faces) == 1:
        return next(iter(faces)).astype(np.float64)
    total = sum(np.rint(face.astype(np.float64) * 2**40).astype(np.int64) for face in faces) / 2**40
    return (total / np.sqrt((total * total).sum())).astype(np.float32).astype(np.float64)


class GalleriesMachine(RuleBasedStateMachine):
    """``model``: gallery → person → (site, face id → vector)."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.model = {}
        self.answers = {}

    @initialize()
    def start(self):
        self.store = Store.open(Path(self.folder.name) / "gallery.db", reserve_bytes=0)
        self.galleries = Galleries(self.store, CONTRACT, DIMENSION)
        self.galleries.load()

    def close(self):
        self.store.close()

    def everywhere(self):
        """All galleries that have to give the same answers."""
        return [self.galleries]

    def teardown(self):
        if hasattr(self, "store"):
            self.close()
        self.folder.cleanup()

    @rule()
    def restart(self):
        self.close()
        self.start()

    @rule(gallery=GALLERY)
    def put_gallery(self, gallery):
        _, made = self.galleries.put(gallery, None, None)
        assert made == (gallery not in self.model)
        self.model.setdefault(gallery, {})

    @rule(gallery=GALLERY)
    def delete_gallery(self, gallery):
        if gallery in self.model:
            self.galleries.delete(gallery)
            del self.model[gallery]
            self.answers = {key: value for key, value in self.answers.items() if key[0] != gallery}
        else:
            with pytest.raises(GalleryNotFound):
                self.galleries.delete(gallery)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), person=PERSON, site=SITE)
    def put_person(self, data, person, site):
        gallery = data.draw(st.sampled_from(sorted(self.model)))
        self.store.put_person(gallery, person, None, {"site": site})
        faces = self.model[gallery].get(person, (site, {}))[1]
        self.model[gallery][person] = (site, faces)

    @precondition(lambda self: any(self.model.values()))
    @rule(data=st.data(), ids=st.lists(FACE, min_size=1, max_size=6), seed=SEED, key=st.none() | st.sampled_from("xy"))
    def enrol(self, data, ids, seed, key):
        gallery, person = self.someone(data)
        rng = np.random.default_rng(seed)
        # Around a centre for each person, some of them the very same.
        centre = np.random.default_rng(len(person) + int(person[1:])).standard_normal(DIMENSION)
        vectors = unit(centre + rng.choice([0.0, 0.5]) * rng.standard_normal((len(ids), DIMENSION)))
        once = Once(key, f"{person}{ids}{seed}") if key else None
        faces = [NewFace(vector, id) for id, vector in zip(ids, vectors, strict=True)]
        taken = {id for _, theirs in self.model[gallery].values() for id in theirs}
        before = self.answers.get((gallery, key)) if key else None

        def call():
            return self.galleries.enrol(gallery, person, faces, once, lambda records: {"n": len(records)})

        if before is not None and before == (person, once.request_sha256):
            assert call().repeated
        elif before is not None or len(set(ids)) < len(ids) or taken & set(ids):
            with pytest.raises(Conflict):
                call()
        else:
            assert [face.id for face in call().faces] == ids
            self.model[gallery][person][1].update(zip(ids, vectors, strict=True))
            if key:
                self.answers[gallery, key] = (person, once.request_sha256)

    @precondition(lambda self: any(self.model.values()))
    @rule(data=st.data())
    def delete_person(self, data):
        gallery, person = self.someone(data)
        self.galleries.delete_person(gallery, person)
        _, gone = self.model[gallery].pop(person)
        for vector in gone.values():
            self.compare(gallery, vector[None])
        self.answers = {k: v for k, v in self.answers.items() if (k[0], v[0]) != (gallery, person)}
        with pytest.raises(PersonNotFound):
            self.galleries.delete_person(gallery, person)

    @precondition(lambda self: any(self.model.values()))
    @rule(data=st.data())
    def delete_face(self, data):
        gallery, person, face = self.some_face(data)
        faces = self.model[gallery][person][1]
        if face in faces:
            self.galleries.delete_face(gallery, person, face)
            self.compare(gallery, faces.pop(face)[None])
        else:
            with pytest.raises(FaceIdNotFound):
                self.galleries.delete_face(gallery, person, face)

    @precondition(lambda self: any(self.model.values()))
    @rule(data=st.data())
    def a_change_that_reached_the_store_only(self, data):
        """As after an error between store and index; the next change brings the index in step."""
        gallery, person, face = self.some_face(data)
        faces = self.model[gallery][person][1]
        if face in faces:
            self.store.delete_face(gallery, person, face)
            del faces[face]
        elif not any(face in theirs for _, theirs in self.model[gallery].values()):
            faces[face] = unit(np.random.default_rng(7).standard_normal(DIMENSION))
            self.store.add_faces(gallery, person, [NewFace(faces[face], face)])
        with pytest.raises(PersonNotFound):
            self.galleries.delete_person(gallery, "nobody")

    @precondition(lambda self: self.model)
    @rule(data=st.data(), seed=SEED, probes=st.sampled_from([1, 2, 7]), top_k=st.integers(1, 8), site=st.none() | SITE)
    def search(self, data, seed, probes, top_k, site):
        gallery = data.draw(st.sampled_from(sorted(self.model)))
        rng = np.random.default_rng(seed)
        known = [v for _, faces in self.model[gallery].values() for v in faces.values()]
        asked = unit(rng.standard_normal((probes, DIMENSION)))
        if known:
            asked[0] = known[seed % len(known)]
        self.compare(gallery, asked, top_k, site)

    @invariant()
    def the_counts_agree(self):
        if not hasattr(self, "store"):
            return
        assert {record.id for record in self.store.galleries().items} == set(self.model)
        for gallery, persons in self.model.items():
            record = self.store.gallery(gallery)
            assert (record.persons, record.faces) == (len(persons), sum(len(f) for _, f in persons.values()))

    def compare(self, gallery, asked, top_k=5, site=None):
        for galleries in self.everywhere():
            found = galleries.search(gallery, asked, top_k, None if site is None else {"site": site})
            self.check(found, gallery, asked, top_k, site)

    def check(self, found, gallery, asked, top_k, site):
        persons = {p: faces for p, (s, faces) in self.model[gallery].items() if site in (None, s)}
        assert found.persons == len(persons)
        for probe, candidates in zip(asked.astype(np.float64), found.candidates, strict=True):
            best = {p: (template(f.values()) * probe).sum() for p, f in persons.items() if f}
            similarities = [candidate.similarity for candidate in candidates]
            assert similarities == sorted(best.values(), reverse=True)[:top_k]
            for candidate in candidates:
                assert candidate.similarity == best[candidate.person.id]
                own = {id: (v.astype(np.float64) * probe).sum() for id, v in persons[candidate.person.id].items()}
                assert own[candidate.face_id] == max(own.values())

    def someone(self, data):
        everyone = [(gallery, person) for gallery, persons in self.model.items() for person in persons]
        return data.draw(st.sampled_from(sorted(everyone)))

    def some_face(self, data):
        """A person, and an id that is often one of that person's faces."""
        gallery, person = self.someone(data)
        own = sorted(self.model[gallery][person][1])
        return gallery, person, data.draw(st.sampled_from(own) | FACE if own else FACE)


def test_store_and_index_agree_with_a_dict_and_numpy(monkeypatch):
    monkeypatch.setattr(flat_index, "BLOCK_ROWS", 8)
    monkeypatch.setattr(segment, "DEAD_ROWS", 4)
    run_state_machine_as_test(
        GalleriesMachine,
        settings=settings(
            max_examples=30,
            stateful_step_count=50,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
