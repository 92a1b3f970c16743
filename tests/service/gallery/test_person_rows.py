"""Rows with their faces and persons."""

from collections import Counter

import numpy as np
import pytest

from service.gallery import flat_index, shelf
from service.gallery.flat_index import FlatIndex
from service.gallery.person_rows import PersonRows
from service.gallery.person_template import person_template, person_templates
from service.gallery.records import Templates


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(flat_index, "BLOCK_ROWS", 128)
    monkeypatch.setattr(shelf, "BLOCK_ROWS", 64)


def unit(rng, n, dimension=32):
    vectors = rng.standard_normal((n, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def templates(rng, faces, dimension=32):
    faces = np.asarray(faces, np.int64)
    return Templates(faces, faces // 3, unit(rng, len(faces), dimension))


def test_rows_know_their_faces_and_which_are_dead():
    rng = np.random.default_rng(4)
    rows = PersonRows(32)
    first, second = templates(rng, range(10, 200)), templates(rng, [5, 3, 900])
    rows.add(first)  # faces 10 and 11 are of the person 3, 198 and 199 of the last one
    rows.add(second)  # 5 and 3 of a new one
    assert rows.persons.tolist() == [*range(3, 67), 1, 300]
    assert rows.counts.tolist() == [2, *[3] * 62, 2, 2, 1]
    assert rows.rows_with(np.array([900, 10, 3, 7])).tolist() == [65, 0, 64]
    rows.remove(np.array([10, 900]))
    assert (len(rows), rows.faces_live, rows.persons_live) == (67, 191, 65)
    assert np.flatnonzero(rows.dead).tolist() == [0, 65]
    assert rows.rows_with(np.array([900, 10, 11])).tolist() == [66]
    numbers, part = rows.live_part(63, 67)
    assert numbers.tolist() == [64, 66, 63]  # by person
    held = dict(zip(part.faces.tolist(), zip(part.persons.tolist(), part.embeddings, strict=True), strict=True))
    assert {face: person for face, (person, _) in held.items()} == {3: 1, 5: 1, 11: 3, 198: 66, 199: 66}
    assert np.array_equal(np.stack([held[face][1] for face in (198, 199)]), first.embeddings[-2:])
    assert np.array_equal(np.stack([held[face][1] for face in (5, 3)]), second.embeddings[:2])
    assert np.array_equal(rows.index.vectors(np.array([66]))[0], first.embeddings[1])


def test_a_template_is_the_mean_of_the_faces_and_one_face_is_its_own():
    rng = np.random.default_rng(3)
    faces = unit(rng, 5)
    assert np.array_equal(person_template(faces[:1]), faces[0])
    mean = faces.mean(axis=0, dtype=np.float64)
    assert np.allclose(person_template(faces), mean / np.linalg.norm(mean), atol=1e-7)
    assert person_template(faces).dtype == np.float32
    several = person_templates(faces, np.array([0, 1, 4]), np.array([1, 3, 1]))
    assert np.array_equal(several, [faces[0], person_template(faces[1:4]), faces[4]])


def test_a_template_does_not_depend_on_the_order_of_the_faces():
    """In float64, large components beside small ones, of faces that all but cancel out, have another sum in each."""
    rng = np.random.default_rng(1)
    faces = rng.standard_normal((20, 512)) * 10 ** rng.uniform(-11, 0, (20, 512))
    faces /= np.linalg.norm(faces, axis=1, keepdims=True)
    others = -faces * (1 + 2e-8 * rng.standard_normal((20, 512))) - 2e-8 * rng.standard_normal((20, 512))
    faces = np.concatenate([faces, others]).astype(np.float32)
    orders = [rng.permutation(40) for _ in range(50)]
    sums = [faces[order].astype(np.float64).sum(axis=0) for order in orders]
    assert len({(total / np.linalg.norm(total)).astype(np.float32).tobytes() for total in sums}) > 20
    assert len({person_template(faces[order]).tobytes() for order in orders}) == 1


def test_faces_that_point_nowhere_together_have_the_template_of_one_of_them():
    face = unit(np.random.default_rng(2), 1)
    both = person_template(np.concatenate([face, -face])), person_template(np.concatenate([-face, face]))
    assert np.array_equal(*both)
    assert np.array_equal(abs(both[0]), abs(face[0]))


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
    rows = PersonRows(4)
    rows.add(Templates(np.array([7, 9]), np.array([1, 2]), np.eye(2, 4, dtype=np.float32)))
    with pytest.raises(ValueError, match=says):
        rows.add(Templates(np.array(faces), np.array(persons), embeddings.astype(np.float32)))
    assert (len(rows), len(rows.index), rows.faces_live) == (2, 2, 2)


def test_an_addition_that_fails_half_way_leaves_everybody_as_before_and_may_be_tried_again(monkeypatch):
    rng = np.random.default_rng(5)
    rows = PersonRows(32)
    rows.add(templates(rng, range(50)))  # of the person 16, two faces
    added, more = FlatIndex.add, templates(rng, range(50, 72))

    def fails_half_way(index, vectors):
        added(index, vectors[:5])
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(FlatIndex, "add", fails_half_way)
        with pytest.raises(MemoryError):
            rows.add(more)
    assert (len(rows), len(rows.index), rows.persons_live, rows.faces_live) == (22, 22, 17, 50)
    assert rows.dead.tolist() == [False] * 17 + [True] * 5
    assert not rows.index.vectors(np.arange(17, 22)).any()
    assert rows.waste == (5 + 24, 22 + 50 + 24)
    rows.add(more)
    assert (rows.faces_live, rows.persons_live) == (72, 24)
    assert rows.rows_with(more.faces).tolist() == list(range(22, 30))
    assert sorted(rows.faces().tolist()) == list(range(72))


def test_an_addition_whose_remains_the_index_cannot_erase_may_be_tried_again(monkeypatch):
    rng = np.random.default_rng(6)
    rows, more = PersonRows(32), templates(rng, range(6, 12))

    def fails(*_):
        raise RuntimeError("the GPU is gone")

    rows.add(templates(rng, range(6)))
    with monkeypatch.context() as patched:
        patched.setattr(FlatIndex, "add", fails)
        patched.setattr(FlatIndex, "erase", fails)
        with pytest.raises(RuntimeError, match="GPU"):
            rows.add(more)
    rows.add(more)
    found = rows.faces_of(rows.rows_with(more.faces))
    assert dict(zip(found.faces.tolist(), found.embeddings.tolist(), strict=True)) == dict(
        zip(more.faces.tolist(), more.embeddings.tolist(), strict=True)
    )


def test_wherever_memory_ends_an_addition_leaves_everybody_as_before(monkeypatch):
    rng = np.random.default_rng(8)
    rows, more, zeros = PersonRows(32), templates(rng, range(250, 600)), np.zeros
    rows.add(templates(rng, range(250)))
    for failing in range(100):
        calls = iter(range(1000))

        def until(*asked, calls=calls, failing=failing, **named):
            if next(calls) == failing:
                raise MemoryError
            return zeros(*asked, **named)

        with monkeypatch.context() as patched:
            patched.setattr(np, "zeros", until)
            try:
                rows.add(more)
                break
            except MemoryError:
                pass
        assert (rows.persons_live, rows.faces_live, sorted(rows.faces().tolist())) == (84, 250, list(range(250)))
        assert len(rows) == len(rows.index) == len(rows.dead) == len(rows.counts)
    assert failing > 6
    assert (rows.persons_live, rows.faces_live, sorted(rows.faces().tolist())) == (200, 600, list(range(600)))
    assert not rows.index.vectors(np.flatnonzero(rows.dead)).any()


def test_what_is_removed_is_not_copied_and_is_overwritten_though_the_index_fails(monkeypatch):
    rng = np.random.default_rng(9)
    rows, held = PersonRows(32), templates(rng, range(30))
    rows.add(held)
    copied, vectors = [], shelf.Shelf.vectors

    def fails(*_):
        raise RuntimeError("the GPU is gone")

    with monkeypatch.context() as patched:
        patched.setattr(shelf.Shelf, "vectors", lambda *asked: copied.append(vectors(*asked)) or copied[-1])
        rows.remove(np.array([4, 9, 10, 11]))
        assert {v.tobytes() for v in np.concatenate(copied)} == {v.tobytes() for v in held.embeddings[[3, 5]]}
        patched.setattr(FlatIndex, "erase", fails)
        with pytest.raises(RuntimeError, match="GPU"):
            rows.remove(np.array([0, 1, 2]))
    assert not rows._shelf.vectors(np.array([0, 1, 2, 3, 4, 5, 9, 10, 11])).any()


def test_how_many_persons_have_so_many_faces_is_kept_through_additions_and_removals() -> None:
    rng = np.random.default_rng(6)
    rows, keys, held = PersonRows(4), iter(range(1, 10_000)), {}
    for _ in range(40):
        owners = rng.integers(0, 30, rng.integers(0, 12))
        vectors = np.tile(np.eye(4, dtype=np.float32)[0], (len(owners), 1))
        new = [next(keys) for _ in owners]
        rows.add(Templates(np.array(new, np.int64), owners.astype(np.int64), vectors))
        held.update(zip(new, owners.tolist(), strict=True))
        gone = rng.choice(list(held) or [0], min(len(held), int(rng.integers(0, 9))), replace=False)
        rows.remove(gone)
        for face in gone.tolist():
            del held[face]
        sizes = Counter(Counter(held.values()).values())
        assert rows.sizes == sizes
        assert (rows.persons_live, rows.faces_live) == (sizes.total(), len(held))
        assert sorted(rows.faces().tolist()) == sorted(held)
