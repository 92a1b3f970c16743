"""All pairs of a labelled set against loops: whole where they are few, the highest and a sample where they are many."""

import itertools

import numpy as np
import pytest

from service.errors import InvalidRequest
from service.evaluation.comparisons import RATES, Comparisons, all_pairs
from service.evaluation.metrics import equal_error_rate, roc
from service.evaluation.photos import PhotoSet


def photo_set(n: int, persons: int, seed: int = 0, undetected: int = 3) -> tuple[PhotoSet, np.ndarray]:
    rng = np.random.default_rng(seed)
    of = rng.integers(0, persons, n)
    vectors = rng.normal(0, 1, (persons, 8))[of] + rng.normal(0, 0.5, (n, 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    detected = np.ones(n, np.bool_)
    detected[rng.choice(n, undetected, replace=False)] = False
    vectors[~detected] = 0
    return PhotoSet(tuple(str(k) for k in range(n)), detected, vectors, 1.0), of


def slowly(photos: PhotoSet, persons: np.ndarray) -> tuple[list[tuple[float, int]], list[tuple[float, int, int]]]:
    genuine, impostor = [], []
    for i, j in itertools.combinations(range(len(persons)), 2):
        found = photos.detected[i] and photos.detected[j]
        score = float(photos.embeddings[i].astype(np.float64) @ photos.embeddings[j]) if found else -np.inf
        if persons[i] == persons[j]:
            genuine.append((score, persons[i]))
        else:
            impostor.append((score, *sorted((persons[i], persons[j]))))
    return sorted(genuine), sorted(impostor)


def test_few_pairs_are_all_there() -> None:
    photos, persons = photo_set(60, 9)
    found = all_pairs(photos, persons)
    genuine, impostor = slowly(photos, persons)
    order = np.lexsort([found.genuine_persons, found.genuine])
    assert found.genuine[order] == pytest.approx([score for score, _ in genuine], abs=1e-6)
    assert np.bincount(found.genuine_persons).tolist() == np.bincount([person for _, person in genuine]).tolist()
    assert np.sort(found.impostor) == pytest.approx([score for score, *_ in impostor], abs=1e-6)
    pairs = sorted((*sorted(pair),) for pair in found.impostor_persons.T.tolist())
    assert pairs == sorted((a, b) for _, a, b in impostor)
    assert (found.stand_for == 1).all()
    assert found.impostors == len(impostor)
    scores = {pair: score for score, *pair in ((s, a, b) for s, a, b in impostor) for pair in [tuple(pair)]}
    assert set(scores) == {tuple(sorted(pair)) for pair in found.impostor_persons.T.tolist()}


def test_of_many_pairs_the_highest_are_there_and_a_sample_stands_for_the_others() -> None:
    photos, persons = photo_set(700, 40)
    everything, found = all_pairs(photos, persons), all_pairs(photos, persons, highest=3000, sampled=40_000)
    assert everything.impostor.size > 200_000
    assert (everything.stand_for == 1).all()
    assert found.genuine.size == everything.genuine.size
    exact = found.stand_for == 1
    top = np.sort(everything.impostor)[-exact.sum() :]
    assert 2990 <= exact.sum() <= 3000
    assert np.array_equal(np.sort(found.impostor[exact]), top)
    assert found.impostor[~exact].max() < top[0]
    assert 38_000 < np.count_nonzero(~exact) < 42_000
    assert found.impostors == everything.impostors == everything.impostor.size
    # A rate within the highest is exact, one beyond them nearly so.
    at = roc(found.genuine, found.impostor, found.stand_for)
    for threshold, tolerance in ((top[5], 1e-12), (top[0], 1e-12), (0.3, 3e-3), (-0.2, 1e-2)):
        share = np.mean(everything.impostor >= threshold)
        index = np.searchsorted(-at.thresholds, -threshold, "right") - 1
        assert at.fmr[index] == pytest.approx(share, abs=tolerance)
    exactly = equal_error_rate(everything.genuine, everything.impostor)
    assert equal_error_rate(found.genuine, found.impostor, found.stand_for) == pytest.approx(exactly, abs=3e-3)


def test_photos_without_a_face_count_in_their_pairs() -> None:
    photos, persons = photo_set(700, 40, undetected=70)
    found = all_pairs(photos, persons, highest=3000, sampled=40_000)
    missing = np.isinf(found.impostor)
    everything = all_pairs(photos, persons)
    expected = np.count_nonzero(np.isinf(everything.impostor))
    assert expected > 10_000
    assert found.stand_for[missing].sum() == pytest.approx(expected, rel=0.03)
    assert np.isinf(found.genuine).sum() == np.isinf(everything.genuine).sum() > 0


def test_rates_need_three_errors_possible() -> None:
    def rates(impostors: int) -> list[float]:
        nobody = np.zeros(1, np.int64)
        one = np.zeros(1)
        return Comparisons(one, nobody, one, np.zeros((2, 1), np.int64), np.array([float(impostors)])).rates

    assert rates(29) == []
    assert rates(30) == [0.1]
    assert rates(3000) == [0.1, 0.01, 0.001]
    assert rates(3_000_000) == list(RATES)


def test_without_a_genuine_pair_that_has_faces_there_is_nothing_to_say() -> None:
    photos, _ = photo_set(6, 3, undetected=0)
    persons = np.array([0, 0, 1, 2, 3, 4])
    photos.detected[0] = False
    with pytest.raises(InvalidRequest, match="5 photos of 5 persons give 0 genuine"):
        all_pairs(photos, persons)
