"""Rates in which every person counts alike: against every pair counted one by one, and against known truths."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import betainc

from service.evaluation.dyads import STEP, genuine_rates, impostor_rates, thresholds_at, with_interval

THRESHOLDS = np.array([-0.2, 0.1, 0.3, 0.5, 0.7])


def people(seed: int, persons: int, most_photos: int, d: int = 6) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    owners = rng.permutation(np.repeat(np.arange(persons), rng.integers(1, most_photos + 1, persons)))
    vectors = rng.normal(size=(persons, d))[owners] + 0.6 * rng.normal(size=(len(owners), d))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), owners


def test_rates_and_variance_are_those_of_all_products_of_dyads_that_share_a_person() -> None:
    embeddings, owners = people(1, 14, 4)
    scores = embeddings.astype(np.float64) @ embeddings.T.astype(np.float64)
    found = impostor_rates(embeddings, owners, THRESHOLDS)
    dyads = list(itertools.combinations(range(14), 2))
    for k, threshold in enumerate(THRESHOLDS):
        share = {(a, b): float((scores[np.ix_(owners == a, owners == b)] >= threshold).mean()) for a, b in dyads}
        rate = float(np.mean(list(share.values())))
        products = [(share[one] - rate) * (share[two] - rate) for one in dyads for two in dyads if set(one) & set(two)]
        variance = max(sum(products) / len(dyads) ** 2, rate * (1 - rate) / len(dyads))
        assert found.rate[k] == pytest.approx(rate, abs=1e-12)
        assert found.effective[k] == pytest.approx(rate * (1 - rate) / variance, rel=1e-9)
        assert found.low[k] < rate < found.high[k]


def test_the_fnmr_is_the_mean_over_persons_with_two_photos() -> None:
    embeddings, owners = people(2, 20, 5)
    scores = embeddings.astype(np.float64) @ embeddings.T.astype(np.float64)
    found = genuine_rates(embeddings, owners, THRESHOLDS)
    for k, threshold in enumerate(THRESHOLDS):
        shares = []
        for person in range(20):
            pairs = list(itertools.combinations(np.flatnonzero(owners == person), 2))
            shares += [np.mean([scores[pair] < threshold for pair in pairs])] if pairs else []
        assert found.rate[k] == pytest.approx(np.mean(shares), abs=1e-12)


def test_a_person_with_many_photos_counts_once() -> None:
    """Two persons whose photos match in every one of 500 pairs are one dyad of three."""
    vectors = np.zeros((502, 3), np.float32)
    vectors[:501, 0] = 1  # 500 photos of person 0 and the one of person 1
    vectors[501, 1] = 1
    found = impostor_rates(vectors, np.array([0] * 500 + [1, 2]), np.array([0.5]))
    assert found.rate[0] == pytest.approx(1 / 3)


@pytest.mark.parametrize("fmr", [0.1, 1e-2, 1e-3])
def test_the_threshold_is_the_lowest_that_keeps_the_rate(fmr: float) -> None:
    embeddings, owners = people(3, 60, 3)
    [threshold] = thresholds_at(embeddings, owners, np.array([fmr]))
    rates = impostor_rates(embeddings, owners, np.array([threshold - STEP, threshold])).rate
    assert rates[1] <= fmr < rates[0]


def test_uniform_directions_give_the_thresholds_of_the_beta_distribution() -> None:
    """On the sphere in d dimensions (1 + cosine) / 2 is Beta((d − 1) / 2, (d − 1) / 2)."""
    vectors = np.random.default_rng(4).normal(size=(2500, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    embeddings, owners = vectors.astype(np.float32), np.arange(2500)
    fmrs = np.array([1e-1, 1e-2, 1e-3, 1e-4])
    thresholds = thresholds_at(embeddings, owners, fmrs)
    truth = betainc(7.5, 7.5, (1 - thresholds) / 2)
    found = impostor_rates(embeddings, owners, thresholds)
    assert ((found.low <= truth) & (truth <= found.high)).all()
    assert np.abs(truth / fmrs - 1).max() < 0.2
    assert found.effective == pytest.approx(2500 * 2499 / 2, rel=0.1)  # such pairs are independent two by two


@pytest.mark.parametrize(("offset", "photos"), [(0.0, 3), (1.0, 3)])
def test_the_interval_covers_the_truth_where_persons_are_alike(offset: float, photos: int) -> None:
    """Directions around a common one: some persons are like many others. Independence would be far off."""

    def draw(rng: np.random.Generator, persons: int, each: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        centres = rng.normal(size=(persons, 12)) + offset * np.eye(12)[0]
        owners = np.repeat(np.arange(persons), each)
        vectors = centres[owners] + 0.4 * rng.normal(size=(len(owners), 12))
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), owners

    rng = np.random.default_rng(5)
    large = draw(rng, 4000, 1)
    thresholds = thresholds_at(*large, np.array([1e-1, 1e-2]))
    truth = impostor_rates(*large, thresholds).rate
    covered, naive, draws = np.zeros(2), np.zeros(2), 100
    for _ in range(draws):
        found = impostor_rates(*draw(rng, 80, photos), thresholds)
        covered += (found.low <= truth) & (truth <= found.high)
        pairs = with_interval(found.rate, np.zeros(2), 80 * 79 / 2 * photos**2)
        naive += (pairs.low <= truth) & (truth <= pairs.high)
    assert (covered / draws >= 0.88).all()
    assert naive[0] / draws < 0.85


def test_no_errors_among_n_bound_the_rate_by_about_three_in_n() -> None:
    found = with_interval(np.array([0.0]), np.array([0.0]), 1000)
    assert found.low[0] == 0
    # Two-sided: 1 − 0.025^(1/n).
    assert found.high[0] == pytest.approx(1 - 0.025 ** (1 / 1000), rel=1e-9)
