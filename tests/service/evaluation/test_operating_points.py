"""Operating points against every pair enumerated one by one, and against themselves in other block sizes."""

import itertools
import tracemalloc
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import InvalidRequest
from service.evaluation.operating_points import CALIBRATION_FMRS, operating_points

RATES = (0.1, 0.03, 0.01, 0.001)


def exact_vectors(n: int, seed: int) -> NDArray[np.float32]:
    """Unit vectors of four entries ±1/2: their cosines are multiples of 1/4, exact in any order of adding."""
    rng = np.random.default_rng(seed)
    vectors = np.zeros((n, 16), np.float32)
    for vector in vectors:
        vector[rng.choice(16, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    return vectors


def persons_around_centres(n: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    identities = rng.integers(0, n // 4, n)
    vectors = rng.normal(size=(n // 4, 32))[identities] + 0.9 * rng.normal(size=(n, 32))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), identities


def enumerate_pairs(embeddings: NDArray[np.float32], identities: NDArray[Any]) -> tuple[list[float], list[float]]:
    genuine: list[float] = []
    impostor: list[float] = []
    rows = embeddings.astype(np.float64)
    for i, j in itertools.combinations(range(len(rows)), 2):
        (genuine if identities[i] == identities[j] else impostor).append(float(rows[i] @ rows[j]))
    return genuine, impostor


def count_at_or_above(scores: list[float], threshold: float) -> int:
    return sum(1 for score in scores if score >= threshold)


@pytest.mark.parametrize("block", [7, 32, 1024])
def test_thresholds_of_tied_scores_are_the_smallest_that_hold(block: int) -> None:
    embeddings, identities = exact_vectors(200, 3), np.random.default_rng(4).integers(0, 40, 200)
    genuine, impostor = enumerate_pairs(embeddings, identities)
    result = operating_points(embeddings, identities, RATES, block)
    assert (result.genuine, result.impostors) == (len(genuine), len(impostor))
    assert (result.persons, result.photos) == (len(set(identities.tolist())), 200)
    assert [point.fmr for point in result.points] == list(RATES)
    for point in result.points:
        just_below = float(np.nextafter(np.float32(point.threshold), np.float32(-1)))
        assert count_at_or_above(impostor, point.threshold) <= point.fmr * len(impostor)
        assert count_at_or_above(impostor, just_below) > point.fmr * len(impostor)
        assert point.false_matches == count_at_or_above(impostor, point.threshold)
        assert point.false_non_matches == len(genuine) - count_at_or_above(genuine, point.threshold)
        assert point.fnmr == point.false_non_matches / len(genuine)
    assert len({point.threshold for point in result.points}) > 1


@pytest.mark.parametrize("block", [16, 100, 1024])
def test_thresholds_without_ties_permit_exactly_the_rate(block: int) -> None:
    embeddings, identities = persons_around_centres(300, 5)
    genuine, impostor = enumerate_pairs(embeddings, identities)
    impostor.sort(reverse=True)
    for point in operating_points(embeddings, identities, RATES, block).points:
        permitted = int(point.fmr * len(impostor))
        assert point.false_matches == permitted
        assert impostor[permitted] - 1e-6 < point.threshold < impostor[permitted - 1] + 1e-6
        assert point.fnmr == sum(1 for score in genuine if score < point.threshold) / len(genuine)
        assert 0 < point.fnmr < 1


def test_the_order_of_photos_and_the_blocks_do_not_matter() -> None:
    embeddings, identities = exact_vectors(250, 8), np.random.default_rng(9).integers(0, 50, 250)
    order = np.random.default_rng(10).permutation(250)
    whole = operating_points(embeddings, identities, RATES)
    for block in (1, 3, 64, 249, 250):
        assert operating_points(embeddings[order], identities[order], RATES, block) == whole


def test_rates_below_three_over_n_are_dropped() -> None:
    embeddings, identities = exact_vectors(50, 1), np.arange(50) // 2  # 1225 pairs, 25 of them genuine
    at_the_limit, under_it = 3 / 1200, 2.9 / 1200
    result = operating_points(embeddings, identities, (under_it, at_the_limit, 0.1))
    assert result.impostors == 1200
    assert [point.fmr for point in result.points] == [0.1, at_the_limit]
    assert operating_points(embeddings, identities, (under_it,)).points == ()
    assert min(p.fmr for p in operating_points(embeddings, identities, CALIBRATION_FMRS).points) == 3e-3


def test_memory_does_not_grow_with_the_number_of_pairs() -> None:
    embeddings, identities = persons_around_centres(3000, 2)
    tracemalloc.start()
    try:
        operating_points(embeddings, identities, (1e-3, 1e-4), block=128)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    all_scores = 4 * 3000 * 2999 // 2
    assert peak < all_scores / 10


@pytest.mark.parametrize("fmr", [0.0, 1.0, -1e-3, float("nan")])
def test_a_rate_that_is_none_is_refused(fmr: float) -> None:
    with pytest.raises(InvalidRequest, match="FMR of"):
        operating_points(exact_vectors(10, 0), np.arange(10) // 2, (fmr,))


@pytest.mark.parametrize("identities", [np.zeros(10, np.int64), np.arange(10)])
def test_both_kinds_of_comparison_are_needed(identities: NDArray[np.int64]) -> None:
    with pytest.raises(InvalidRequest, match="two persons at least"):
        operating_points(exact_vectors(10, 0), identities)


@pytest.mark.parametrize(
    ("embeddings", "problem"),
    [
        (exact_vectors(10, 0) * 1.01, "unit length"),
        (exact_vectors(10, 0) * np.float32(np.nan), "unit length"),
        (exact_vectors(10, 0).astype(np.float64), "float32"),
        (exact_vectors(9, 0), "float32"),
    ],
)
def test_embeddings_that_are_none_are_a_defect(embeddings: NDArray[Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        operating_points(embeddings, np.arange(10) // 2)
