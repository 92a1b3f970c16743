"""The vector index against plain numpy, across the edges of its blocks."""

import numpy as np
import pytest

from service.errors import DeviceError
from service.gallery import index as module
from service.gallery.index import FaceRows, FlatIndex, make_index
from service.gallery.records import Templates


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ROWS", 100)
    monkeypatch.setattr(module, "GATHER_ROWS", 64)


def unit(rng, n, dimension=32):
    vectors = rng.standard_normal((n, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def templates(rng, faces, dimension=32):
    faces = np.asarray(faces, np.int64)
    return Templates(faces, faces // 3, unit(rng, len(faces), dimension))


@pytest.mark.parametrize("probes", [1, 2, 65])
def test_search_gives_the_best_rows_with_scores_within_the_stated_error(probes):
    rng = np.random.default_rng(1)
    vectors, asked = unit(rng, 357), unit(rng, probes)
    index = FlatIndex(32)
    for part in np.split(vectors, [1, 99, 101, 350]):
        index.add(part)
    exact = asked.astype(np.float64) @ vectors.T
    for k in (1, 20, 150, 357, 1000):
        scores, rows = index.search(asked, k)
        assert scores.shape == rows.shape == (probes, min(k, 357))
        assert np.abs(scores - np.take_along_axis(exact, rows, 1)).max() <= index.score_error
        best = np.sort(exact, axis=1)[:, -min(k, 357) :]
        assert np.allclose(np.sort(scores, axis=1), best, atol=index.score_error, rtol=0)
        assert all(len(set(of_probe)) == len(of_probe) for of_probe in rows.tolist())


def test_scores_and_vectors_of_chosen_rows():
    rng = np.random.default_rng(2)
    vectors, asked = unit(rng, 357), unit(rng, 3)
    index = FlatIndex(32)
    index.add(vectors)
    rows = rng.permutation(357)[:200]
    assert np.array_equal(index.vectors(rows), vectors[rows])
    exact = asked.astype(np.float64) @ vectors.T
    assert np.allclose(index.scores(asked, rows), exact[:, rows], atol=index.score_error, rtol=0)
    assert np.allclose(index.scores(asked, None), exact, atol=index.score_error, rtol=0)
    assert index.scores(asked, rows[:0]).shape == (3, 0)


def test_erased_rows_hold_zeros_in_the_memory_that_is_scanned():
    rng = np.random.default_rng(3)
    vectors = unit(rng, 250)
    index = FlatIndex(32)
    index.add(vectors)
    rows = np.array([0, 99, 100, 249])
    index.erase(rows)
    vectors[rows] = 0
    assert np.array_equal(index.vectors(np.arange(250)), vectors)
    assert np.array_equal(index.scores(unit(rng, 2), rows), np.zeros((2, 4)))


def test_an_empty_index_answers():
    index = make_index(8)
    assert len(index) == 0
    for probes in (1, 3):
        assert index.search(np.ones((probes, 8), np.float32), 5)[1].shape == (probes, 0)
        assert index.scores(np.ones((probes, 8), np.float32), None).shape == (probes, 0)


def test_a_device_without_an_index_is_refused():
    with pytest.raises(DeviceError, match="cuda"):
        make_index(8, "cuda")


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
