"""Faces, their templates, and idempotency keys."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from service.errors import Conflict, FaceIdNotFound, GalleryNotFound, InvalidRequest, ModelMismatch, PersonNotFound
from service.gallery.records import FaceRecord, NewFace
from service.gallery.store import Once, Store

DIMENSION = 16


@pytest.fixture
def store(store_in: Callable[[Path], Store], tmp_path: Path) -> Iterator[Store]:
    store = store_in(tmp_path)
    store.put_gallery("staff", None, None, "contract", DIMENSION)
    store.put_person("staff", "ann")
    yield store
    store.close()


def some_faces(count: int, seed: int = 0, ids: Sequence[str | None] | None = None) -> list[NewFace]:
    vectors = np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    named = zip(vectors, ids or [None] * count, strict=True)
    return [NewFace(vector, id, {"image_index": index}) for index, (vector, id) in enumerate(named)]


def answer(faces: Sequence[FaceRecord]) -> Mapping[str, object]:
    return {"enrolled": [face.id for face in faces]}


def test_added_faces_come_back_in_order_with_their_bytes(store: Store) -> None:
    new = some_faces(600, ids=[None, *(f"mine{n}" for n in range(599))])
    added = store.add_faces("staff", "ann", new)
    person = store.person("staff", "ann")
    assert not added.repeated
    assert added.person_key == person.key
    assert added.faces[0].id.startswith("f_")
    assert [face.id for face in added.faces[1:]] == [face.id for face in new[1:]]
    assert [face.facts for face in added.faces] == [face.facts for face in new]
    keys = [face.key for face in added.faces]
    assert keys == sorted(keys)
    assert store.owners(np.array([*keys, 7])) == {
        face.key: (store.person("staff", "ann"), face) for face in added.faces
    }
    (templates,) = store.templates(store.gallery("staff").key)
    assert templates.faces.tolist() == keys
    assert set(templates.persons.tolist()) == {person.key}
    expected = np.stack([face.embedding for face in new])
    assert templates.embeddings.dtype == np.float32
    np.testing.assert_array_equal(templates.embeddings, expected)
    np.testing.assert_array_equal(store.embeddings("staff", "ann"), expected)
    assert (person.faces, store.gallery("staff").faces) == (600, 600)


def test_templates_come_in_blocks_and_after_a_key(store: Store) -> None:
    key = store.gallery("staff").key
    assert list(store.templates(key)) == []
    faces = store.add_faces("staff", "ann", some_faces(10)).faces
    for block in (1, 3, 5, 10, 11):
        blocks = list(store.templates(key, block=block))
        assert all(0 < len(found.faces) <= block for found in blocks)
        assert np.concatenate([found.faces for found in blocks]).tolist() == [face.key for face in faces]
    (rest,) = store.templates(key, after=faces[6].key)
    assert rest.faces.tolist() == [face.key for face in faces[7:]] == store.face_keys(key)[0][7:].tolist()
    with pytest.raises(GalleryNotFound, match="99"):
        list(store.templates(99))


def test_templates_of_several_dimensions_stay_apart(store: Store) -> None:
    store.put_gallery("large", None, None, "other", 700)
    store.put_person("large", "ann")
    vector = np.linspace(0, 1, 700, dtype=np.float32)
    store.add_faces("large", "ann", [NewFace(vector)])
    store.add_faces("staff", "ann", some_faces(2))
    (large,) = store.templates(store.gallery("large").key)
    np.testing.assert_array_equal(large.embeddings, [vector])
    (small,) = store.templates(store.gallery("staff").key)
    assert small.embeddings.shape == (2, DIMENSION)


def test_pages_of_faces(store: Store) -> None:
    store.put_person("staff", "bob")
    store.add_faces("staff", "bob", some_faces(1, ids=["other"]))
    store.add_faces("staff", "ann", some_faces(5, ids=["e", "b", "a", "d", "c"]))
    first = store.faces("staff", "ann", limit=3)
    rest = store.faces("staff", "ann", first.cursor, 3)
    assert [face.id for face in (*first.items, *rest.items)] == list("abcde")
    assert rest.cursor is None
    with pytest.raises(PersonNotFound):
        store.faces("staff", "nobody")


def test_a_deleted_face_is_gone_and_its_key_is_not_used_again(store: Store) -> None:
    store.put_person("staff", "bob")
    (face,) = store.add_faces("staff", "ann", some_faces(1, ids=["a"])).faces
    with pytest.raises(FaceIdNotFound, match="bob"):
        store.delete_face("staff", "bob", "a")
    assert store.delete_face("staff", "ann", "a") == face.key
    with pytest.raises(FaceIdNotFound, match="'a'"):
        store.delete_face("staff", "ann", "a")
    with pytest.raises(InvalidRequest, match="face id"):
        store.delete_face("staff", "ann", "a b")
    assert store.add_faces("staff", "ann", some_faces(1, ids=["a"])).faces[0].key > face.key


def test_a_deleted_person_tells_which_faces_went(store: Store) -> None:
    keys = [face.key for face in store.add_faces("staff", "ann", some_faces(3)).faces]
    assert store.delete_person("staff", "ann") == keys
    assert list(store.templates(store.gallery("staff").key)) == []
    assert (store.gallery("staff").persons, store.gallery("staff").faces) == (0, 0)


def test_an_id_that_is_taken_adds_nothing(store: Store) -> None:
    store.put_person("staff", "bob")
    store.add_faces("staff", "bob", some_faces(1, ids=["a"]))
    before = store.gallery("staff")
    for ids, named in ((["b", "a"], "'a'"), (["c", "c"], "'c'"), (["b", None, "a"], "'a'")):
        with pytest.raises(Conflict, match=named):
            store.add_faces("staff", "ann", some_faces(len(ids), ids=ids))
    assert store.gallery("staff") == before
    assert store.faces("staff", "ann").items == ()


def test_embeddings_that_cannot_be(store: Store) -> None:
    for error, embedding in (
        (ModelMismatch, np.ones(DIMENSION + 1, np.float32)),
        (ModelMismatch, np.ones((1, DIMENSION), np.float32)),
        (InvalidRequest, np.ones(DIMENSION, np.float64)),
        (InvalidRequest, np.full(DIMENSION, np.nan, np.float32)),
    ):
        with pytest.raises(error):
            store.add_faces("staff", "ann", [NewFace(embedding)])  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest):
        store.add_faces("staff", "ann", [])
    with pytest.raises(PersonNotFound):
        store.add_faces("staff", "nobody", some_faces(1))
    assert store.gallery("staff").faces == 0


def test_the_same_key_adds_once(store: Store) -> None:
    once = Once("order 66", "a" * 64)
    assert store.answered("staff", "ann", once) is None
    first = store.add_faces("staff", "ann", some_faces(2), once, answer)
    before = store.gallery("staff")
    again = store.add_faces("staff", "ann", some_faces(2), once, answer)
    assert (first.repeated, again.repeated) == (False, True)
    assert again.faces == ()
    assert again.answer == first.answer == {"enrolled": [face.id for face in first.faces]}
    assert store.answered("staff", "ann", once) == first.answer
    assert store.gallery("staff") == before


def test_a_key_that_was_used_for_something_else(store: Store) -> None:
    store.put_person("staff", "bob")
    store.put_gallery("visitors", None, None, "contract", DIMENSION)
    store.put_person("visitors", "ann")
    store.add_faces("staff", "ann", some_faces(1), Once("k", "a" * 64), answer)
    for person, digest in (("ann", "b" * 64), ("bob", "a" * 64)):
        with pytest.raises(Conflict, match="'k'"):
            store.add_faces("staff", person, some_faces(1), Once("k", digest), answer)
        with pytest.raises(Conflict, match="'k'"):
            store.answered("staff", person, Once("k", digest))
    assert not store.add_faces("visitors", "ann", some_faces(1), Once("k", "b" * 64), answer).repeated
    assert store.gallery("staff").faces == 1
    for bad in ("", "é", "x" * 256, "a\n"):
        with pytest.raises(InvalidRequest, match="idempotency"):
            store.add_faces("staff", "ann", some_faces(1), Once(bad, "a" * 64))


def test_a_key_is_not_used_up_by_a_failure(store: Store) -> None:
    def broken(_: Sequence[FaceRecord]) -> Mapping[str, object]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.add_faces("staff", "ann", some_faces(1), Once("k", "a" * 64), broken)
    assert store.gallery("staff").faces == 0
    assert not store.add_faces("staff", "ann", some_faces(1), Once("k", "a" * 64), answer).repeated


def test_what_was_answered_about_a_person_goes_with_the_person(store: Store) -> None:
    once = Once("k", "a" * 64)
    store.add_faces("staff", "ann", some_faces(1), once, answer)
    store.delete_person("staff", "ann")
    store.put_person("staff", "ann")
    assert not store.add_faces("staff", "ann", some_faces(1), once, answer).repeated
