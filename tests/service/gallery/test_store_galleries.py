"""Galleries and persons in a real database file: every method and every refusal."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import GalleryNotFound, InvalidRequest, ModelMismatch, PersonNotFound
from service.gallery.records import NewFace
from service.gallery.store import Store

BAD_IDS = ["", "a b", "a/b", "é", "x" * 129, "a\n", "'; DROP TABLE persons --"]


@pytest.fixture
def store(store_in: Callable[[Path], Store], tmp_path: Path) -> Iterator[Store]:
    store = store_in(tmp_path)
    store.put_gallery("staff", "Staff", None, "contract", 4)
    yield store
    store.close()


def test_a_gallery_is_made_once_and_then_renamed(store: Store) -> None:
    made, created = store.put_gallery("visitors", "Visitors", "at the gate", "contract", 8)
    assert created
    assert (made.id, made.name, made.description) == ("visitors", "Visitors", "at the gate")
    assert (made.embedding_contract, made.dimension) == ("contract", 8)
    assert (made.revision, made.persons, made.faces) == (0, 0, 0)
    assert made.created_at.utcoffset() == timedelta(0)
    again, created = store.put_gallery("visitors", None, "closed", "contract", 8)
    assert not created
    assert (again.key, again.name, again.description) == (made.key, None, "closed")
    assert store.gallery("visitors") == again


@pytest.mark.parametrize(("contract", "dimension"), [("other", 4), ("contract", 8)])
def test_a_gallery_stays_with_its_contract(store: Store, contract: str, dimension: int) -> None:
    with pytest.raises(ModelMismatch, match="staff"):
        store.put_gallery("staff", "new", None, contract, dimension)
    assert store.gallery("staff").name == "Staff"


@pytest.mark.parametrize("dimension", [0, -1, 4097])
def test_a_dimension_that_cannot_be(store: Store, dimension: int) -> None:
    with pytest.raises(InvalidRequest, match=str(dimension)):
        store.put_gallery("g", None, None, "contract", dimension)


def test_a_deleted_gallery_is_gone_with_its_persons_and_its_key(store: Store) -> None:
    store.put_person("staff", "ann")
    face = store.add_faces("staff", "ann", [NewFace(np.ones(4, np.float32))]).faces[0]
    key = store.gallery("staff").key
    assert store.delete_gallery("staff") == key
    for missing in (
        lambda: store.gallery("staff"),
        lambda: store.delete_gallery("staff"),
        lambda: store.persons("staff"),
    ):
        with pytest.raises(GalleryNotFound, match="staff"):
            missing()
    with pytest.raises(GalleryNotFound):
        list(store.templates(key))
    assert store.owners([face.key]) == {}
    again, created = store.put_gallery("staff", None, None, "another contract", 4)
    assert created
    assert again.key > key


@pytest.mark.parametrize("bad", BAD_IDS)
def test_ids_that_cannot_be(store: Store, bad: str) -> None:
    for refused in (
        lambda: store.put_gallery(bad, None, None, "contract", 4),
        lambda: store.gallery(bad),
        lambda: store.put_person("staff", bad),
        lambda: store.person("staff", bad),
        lambda: store.delete_person("staff", bad),
    ):
        with pytest.raises(InvalidRequest, match="id"):
            refused()


def test_a_person_is_made_once_and_then_replaced(store: Store) -> None:
    until = datetime(2030, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    made, created = store.put_person("staff", "ann", "Ann", {"floor": 3}, until)
    assert created
    assert (made.id, made.name, made.metadata, made.expires_at, made.faces) == ("ann", "Ann", {"floor": 3}, until, 0)
    assert made.expires_at is not None
    assert made.expires_at.tzinfo is UTC
    again, created = store.put_person("staff", "ann", "Anna")
    assert not created
    assert (again.key, again.name, again.metadata, again.expires_at) == (made.key, "Anna", {}, None)
    assert again.created_at == made.created_at <= again.updated_at
    assert store.person("staff", "ann") == again


def test_a_patch_changes_only_what_it_names(store: Store) -> None:
    store.put_person("staff", "ann", "Ann", {"floor": 3})
    assert store.patch_person("staff", "ann", {"metadata": {"floor": 4}}).name == "Ann"
    patched = store.patch_person("staff", "ann", {"name": None})
    assert (patched.name, patched.metadata) == (None, {"floor": 4})
    with pytest.raises(InvalidRequest, match="surname"):
        store.patch_person("staff", "ann", {"surname": "A."})
    with pytest.raises(PersonNotFound, match="bob"):
        store.patch_person("staff", "bob", {"name": "Bob"})


def test_a_missing_gallery_or_person_is_named(store: Store) -> None:
    with pytest.raises(GalleryNotFound, match="nowhere"):
        store.put_person("nowhere", "ann")
    with pytest.raises(PersonNotFound, match="ann"):
        store.person("staff", "ann")
    with pytest.raises(PersonNotFound, match="ann"):
        store.delete_person("staff", "ann")


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "x" * 4097},
        {"name": "a\0b"},
        {"name": "\ud800"},
        {"expires_at": datetime(2030, 1, 1)},
        {"metadata": {"a": None}},
        {"metadata": {"a": [1]}},
        {"metadata": {"a": float("nan")}},
        {"metadata": {"a": 2**63}},
        {"metadata": {"a": "\ud800"}},
        {"metadata": {"a\0": 1}},
        {"metadata": {str(n): n for n in range(65)}},
        {"metadata": {"a": "x" * 20_000}},
    ],
)
def test_fields_that_cannot_be(store: Store, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        store.put_person("staff", "ann", **fields)
    assert store.persons("staff").items == ()


def test_every_change_of_a_person_bumps_the_revision(store: Store) -> None:
    for revision, change in enumerate(
        (
            lambda: store.put_person("staff", "ann"),
            lambda: store.put_person("staff", "ann", "Ann"),
            lambda: store.patch_person("staff", "ann", {"name": "Anna"}),
            lambda: store.delete_person("staff", "ann"),
        ),
        start=1,
    ):
        change()
        assert store.gallery("staff").revision == revision


def test_pages_go_through_all_in_the_order_of_ids(store: Store) -> None:
    ids = sorted(f"{letter}{n}" for letter in "aBc_" for n in range(5))
    for id in reversed(ids):
        store.put_person("staff", id, metadata={"odd": int(id[-1]) % 2})
        store.put_gallery(id, None, None, "contract", 4)
    found, cursor = [], None
    while True:
        page = store.persons("staff", cursor, 7)
        found += [person.id for person in page.items]
        if (cursor := page.cursor) is None:
            break
    assert found == ids
    assert [gallery.id for gallery in store.galleries(limit=1000).items] == sorted([*ids, "staff"])
    first = store.persons("staff", None, 3, {"odd": 1})
    rest = store.persons("staff", first.cursor, 1000, {"odd": 1})
    assert [person.id for person in (*first.items, *rest.items)] == [id for id in ids if int(id[-1]) % 2]
    assert rest.cursor is None


@pytest.mark.parametrize("cursor", ["", "?", "YQ", "w6k=", "YSBi", "é", "\ud800"])
def test_a_broken_cursor(store: Store, cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="cursor"):
        store.persons("staff", cursor)


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_limit_out_of_range(store: Store, limit: int) -> None:
    with pytest.raises(InvalidRequest, match=str(limit)):
        store.galleries(limit=limit)


def test_filters_compare_types_and_values(store: Store) -> None:
    odd_keys = {'quo"te': 1, "dot.ted": "x", "$[0]": True, "back\\slash": "y", "日本": "é\n\t", "": "empty"}
    persons: dict[str, dict[str, Any]] = {
        "one": {"v": 1},
        "one.0": {"v": 1.0, "w": "x"},
        "true": {"v": True},
        "text": {"v": "1"},
        "false": {"v": False, "w": "x"},
        "zero": {"v": 0},
        "third": {"v": 0.1 + 0.2},
        "large": {"v": 2**62 + 1},
        "word": {"v": "true"},
        "round": {"v": 2**60},
        "round.0": {"v": 2.0**60},
        "odd": odd_keys,
    }
    for id, metadata in persons.items():
        store.put_person("staff", id, metadata=metadata)
        assert store.person("staff", id).metadata == metadata

    def found(**filter: Any) -> set[str]:
        keys = store.person_keys("staff", filter)
        assert keys.dtype == np.int64
        assert (np.diff(keys) > 0).all()
        by_filter = {person.id for person in store.persons("staff", filter=filter).items}
        assert by_filter == {person.id for person in store.persons("staff").items if person.key in keys}
        return by_filter

    assert found(v=1) == found(v=1.0) == {"one", "one.0"}
    assert found(v=True) == {"true"}
    assert found(v=False) == {"false"}
    assert found(v=0) == {"zero"}
    assert found(v="1") == {"text"}
    assert found(v="true") == {"word"}
    assert found(v=0.1 + 0.2) == {"third"}
    assert found(v=0.3) == set()
    assert found(v=2**62 + 1) == {"large"}
    assert found(v=2**60) == found(v=2.0**60) == {"round", "round.0"}
    assert found(v=1, w="x") == {"one.0"}
    assert found(w="x") == {"one.0", "false"}
    for key, value in odd_keys.items():
        assert found(**{key: value}) == {"odd"}
    assert found(**odd_keys) == {"odd"}
    assert found() == set(persons)
    for attack in ('v" = 1 OR "', "v') OR 1=1 --", "$.v", '$."v"', "%"):
        assert found(**{attack: 1}) == set()
    with pytest.raises(InvalidRequest, match="metadata"):
        store.person_keys("staff", {"v": None})  # type: ignore[dict-item]
    with pytest.raises(GalleryNotFound):
        store.person_keys("nowhere")
