"""The doctor on made-up faces with known faults, against a search through all pairs one by one."""

import numpy as np
import pytest
from numpy.typing import NDArray

from service.evaluation import doctor
from service.evaluation.doctor import COHORT, examine
from service.evaluation.dyads import impostor_rates
from service.evaluation.operating_points import person_tiles

PERSONS, PHOTOS, D = 120, 4, 512
RELATED = 0.4


@pytest.fixture
def gallery() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(1)
    persons = np.repeat(np.arange(PERSONS), PHOTOS)
    vectors = rng.normal(size=(PERSONS, D))[persons] + 0.7 * rng.normal(size=(len(persons), D))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), persons


def test_a_sound_gallery_has_nothing(gallery: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    found = examine(*gallery, RELATED, np.array([0.2, 0.3]))
    assert (found.duplicates, found.mislabelled) == ((), ())
    assert found.impostor.rate == pytest.approx(impostor_rates(*gallery, np.array([0.2, 0.3])).rate)


@pytest.mark.parametrize("order", [0, 7])
def test_planted_faults_are_found_and_nothing_else(
    gallery: tuple[NDArray[np.float32], NDArray[np.int64]], order: int
) -> None:
    vectors, persons = gallery
    labels = persons.copy()
    labels[[0, 1]] = PERSONS  # half of person 0
    labels[4 * 10], labels[4 * 20] = 20, 10  # faces of 10 and 20 change places
    mixed = np.random.default_rng(order).permutation(len(labels)) if order else np.arange(len(labels))
    found = examine(vectors[mixed], labels[mixed], RELATED, np.array([RELATED]))
    [pair] = found.duplicates
    assert pair.persons == (0, PERSONS)
    first, second = (mixed[face] for face in pair.faces)
    assert (labels[first], labels[second]) == pair.persons
    scores = vectors[labels == 0] @ vectors[labels == PERSONS].T
    assert pair.similarity == pytest.approx(scores.max(), abs=1e-6)
    moved = {int(mixed[face.face]): (face.person, face.other) for face in found.mislabelled}
    assert moved == {40: (20, 10), 80: (10, 20)}
    for face in found.mislabelled:
        row, same = mixed[face.face], np.flatnonzero(labels == face.person)
        assert face.own == pytest.approx(float((vectors[same[same != row]] @ vectors[row]).max()), abs=1e-6)
        assert face.similarity == pytest.approx(float((vectors[labels == face.other] @ vectors[row]).max()), abs=1e-6)
    # Neither the moved faces nor the second name count among the scores of different persons.
    clean = ~np.isin(np.arange(len(labels)), [40, 80]) & (labels != PERSONS)
    expected = impostor_rates(vectors[clean], labels[clean], np.array([RELATED])).rate
    assert found.impostor.rate == pytest.approx(expected)


def test_the_excess_is_over_the_next_most_similar_persons(
    gallery: tuple[NDArray[np.float32], NDArray[np.int64]], monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, persons = gallery
    labels = persons.copy()
    labels[[0, 1]] = PERSONS
    # In several tiles, so that cohorts have to be merged.
    monkeypatch.setattr(doctor, "person_tiles", lambda *args: person_tiles(*args, block=50))
    [pair] = examine(vectors, labels, RELATED, np.array([RELATED])).duplicates
    everybody = np.unique(labels)
    means = np.stack([vectors[labels == person].sum(axis=0, dtype=np.float64) for person in everybody])
    means /= np.linalg.norm(means, axis=1, keepdims=True)

    def cohort(similarities: NDArray[np.float64]) -> float:
        return float(np.sort(similarities)[-1 - COHORT : -1].mean())

    by_face, by_mean = [], []
    for person in pair.persons:
        others = everybody[everybody != person]
        best = [float((vectors[labels == person] @ vectors[labels == other].T).max()) for other in others]
        by_face.append(cohort(np.array(best)))
        by_mean.append(cohort(means[others] @ means[person]))
    together = float(means[pair.persons[0]] @ means[pair.persons[1]])
    expected = (pair.similarity - np.mean(by_face) + together - np.mean(by_mean)) / 2
    assert pair.excess == pytest.approx(expected, abs=1e-6)


def test_two_persons_with_one_face_each_are_enough() -> None:
    vectors = np.eye(3, dtype=np.float32)[[0, 0]]
    found = examine(vectors, np.array([0, 1]), RELATED, np.array([RELATED]))
    assert [pair.persons for pair in found.duplicates] == [(0, 1)]
    assert found.impostor.rate.tolist() == [0]
