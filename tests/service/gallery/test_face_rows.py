"""Rows with their faces and persons."""

from collections import Counter

import numpy as np
import pytest

from service.gallery import flat_index
from service.gallery.face_rows import FaceRows
from service.gallery.flat_index import FlatIndex
from service.gallery.records import Templates


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(flat_index, "BLOCK_ROWS", 128)


def unit(rng, n, dimension=32):
    vectors = rng.standard_normal((n, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def templates(rng, faces, dimension=32):
    faces = np.asarray(faces, np.int64)
    return Templates(faces, faces // 3, unit(rng, len(faces), dimension))


def test_rows_know_their_faces_and_which_are_dead():
    rng = np.random.default_rng(4)
    rows = FaceRows(32)
    first, second = templates(rng, range(10, 200)), templates(rng, [5, 3, 900])
    rows.append(first)
    rows.append(second)
    assert rows.rows_of(np.array([900, 10, 3, 7])).tolist() == [0, 191, 192]
    rows.bury(rows.rows_of(np.array([10, 900])))
    assert (len(rows), rows.live) == (193, 191)
    assert rows.rows_of(np.array([900, 10, 3])).tolist() == [191]
    numbers, part = rows.live_part(189, 193)
    assert (numbers.tolist(), part.faces.tolist(), part.persons.tolist()) == ([189, 190, 191], [199, 5, 3], [66, 1, 1])
    assert np.array_equal(part.embeddings, np.concatenate([first.embeddings[-1:], second.embeddings[:2]]))


@pytest.mark.parametrize(
    ("faces", "persons", "embeddings", "says"),
    [
        ([1, 2], [1], np.eye(2, 4), "shapes"),
        ([1], [1], np.eye(1, 5), "shapes"),
        ([1], [1], 2 * np.eye(1, 4), "unit length"),
        ([1], [1], np.full((1, 4), np.nan), "unit length"),
        ([1, 1], [1, 1], np.eye(2, 4), "twice"),
        ([1, 7], [1, 1], np.eye(2, 4), "already"),
    ],
)
def test_templates_that_cannot_be_kept_change_nothing(faces, persons, embeddings, says):
    rows = FaceRows(4)
    rows.append(Templates(np.array([7, 9]), np.array([1, 2]), np.eye(2, 4, dtype=np.float32)))
    with pytest.raises(ValueError, match=says):
        rows.append(Templates(np.array(faces), np.array(persons), embeddings.astype(np.float32)))
    assert (len(rows), len(rows.index), rows.live) == (2, 2, 2)


def test_an_append_that_fails_half_way_leaves_dead_rows_and_may_be_tried_again(monkeypatch):
    rng = np.random.default_rng(5)
    rows = FaceRows(32)
    rows.append(templates(rng, range(50)))
    added, more = FlatIndex.add, templates(rng, range(50, 70))

    def fails_half_way(index, vectors):
        added(index, vectors[:7])
        raise MemoryError

    monkeypatch.setattr(FlatIndex, "add", fails_half_way)
    with pytest.raises(MemoryError):
        rows.append(more)
    monkeypatch.undo()
    assert (len(rows), len(rows.index), rows.live, rows.dead.sum()) == (57, 57, 50, 7)
    rows.append(more)
    assert (rows.live, rows.rows_of(more.faces).tolist()) == (70, list(range(57, 77)))


def test_how_many_persons_have_so_many_faces_is_kept_through_additions_and_removals() -> None:
    rng = np.random.default_rng(6)
    rows, keys = FaceRows(4), iter(range(1, 10_000))
    for _ in range(40):
        owners = rng.integers(0, 30, rng.integers(0, 12))
        vectors = np.tile(np.eye(4, dtype=np.float32)[0], (len(owners), 1))
        rows.append(Templates(np.array([next(keys) for _ in owners], np.int64), owners.astype(np.int64), vectors))
        live = np.flatnonzero(~rows.dead)
        rows.bury(rng.choice(live, min(len(live), int(rng.integers(0, 9))), replace=False))
        held = Counter(rows.persons[~rows.dead].tolist())
        assert rows.sizes == Counter(held.values())
        assert rows.persons_live == len(held)
