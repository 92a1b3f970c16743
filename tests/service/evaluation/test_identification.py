"""Figures of merit of identification against loops over probes, on scores with ties and misses."""

from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from service.evaluation.identification import fnir_at_fpir, found_within

Floats = NDArray[np.float64]
GALLERY, PROBES = 12, 80


def search_scores(seed: int) -> tuple[list[list[float]], list[int], list[bool]]:
    """Scores of each probe with each enrolled person, the probe's person, and whether it was searched at all.

    Persons from GALLERY on are strangers. The scores have one digit, so most first places are tied.
    """
    rng = np.random.default_rng(seed)
    mates = rng.integers(0, 2 * GALLERY, PROBES)
    scores = rng.normal(0.1, 0.2, (PROBES, GALLERY))
    scores[mates < GALLERY, mates[mates < GALLERY]] += 0.25
    return np.round(scores, 1).tolist(), mates.tolist(), (rng.random(PROBES) > 0.1).tolist()


def candidates(row: list[float]) -> list[int]:
    return sorted(range(GALLERY), key=lambda person: (-row[person], person))


def searched(seed: int) -> tuple[NDArray[np.int64], Floats, Floats]:
    """(ranks of the mated, their scores at rank 1, scores of the non-mated), as the metrics take them."""
    ranks, mated, non_mated = [], [], []
    for row, mate, usable in zip(*search_scores(seed), strict=True):
        order = candidates(row)
        best = row[order[0]] if usable else -np.inf
        if mate >= GALLERY:
            non_mated.append(best)
        else:
            ranks.append(order.index(mate) + 1 if usable else 0)
            mated.append(best if order[0] == mate else -np.inf)
    return np.array(ranks), np.array(mated), np.array(non_mated)


@pytest.mark.parametrize("seed", range(5))
def test_the_cmc_counts_mates_among_the_first_candidates(seed: int) -> None:
    depth = GALLERY + 3
    expected = []
    for k in range(1, depth + 1):
        found = [
            usable and mate in candidates(row)[:k]
            for row, mate, usable in zip(*search_scores(seed), strict=True)
            if mate < GALLERY
        ]
        expected.append(sum(found) / len(found))
    assert expected[0] < expected[4] < expected[-1] < 1, "misses at rank 1, and probes that were not searched"
    ranks = searched(seed)[0]
    assert found_within(ranks, depth).mean(axis=0).tolist() == expected
    assert found_within(ranks, 4).mean(axis=0).tolist() == expected[:4]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fpir", [0.0, 0.03, 0.1, 0.5, 0.9])
def test_fnir_is_the_lowest_that_any_threshold_within_the_fpir_gives(seed: int, fpir: float) -> None:
    searches = list(zip(*search_scores(seed), strict=True))

    def rates(threshold: float) -> tuple[Fraction, Fraction, int, int]:
        false, strangers, missed, mated = 0, 0, 0, 0
        for row, mate, usable in searches:
            returned = [person for person in candidates(row)[:1] if usable and row[person] >= threshold]
            if mate >= GALLERY:
                strangers += 1
                false += bool(returned)
            else:
                mated += 1
                missed += returned != [mate]
        return Fraction(false, strangers), Fraction(missed, mated), false, missed

    scores = {score for row, _, _ in searches for score in row}
    thresholds = scores | {float(np.nextafter(score, np.inf)) for score in scores}
    best = min(fnir for t in thresholds for found, fnir, *_ in [rates(t)] if found <= Fraction(str(fpir)))
    _, mated, non_mated = searched(seed)
    point = fnir_at_fpir(mated, non_mated, fpir)
    found, fnir, false, missed = rates(point.threshold)
    assert (point.fnir, fnir) == (float(best), best)
    assert found <= Fraction(str(fpir))
    assert (point.fpir, point.false_positives, point.false_negatives) == (fpir, false, missed)
    assert all(rates(t)[0] > Fraction(str(fpir)) for t in thresholds if t < point.threshold), "no lower one will do"


def test_a_score_at_the_threshold_is_returned() -> None:
    above = float(np.nextafter(0.5, 1))
    point = fnir_at_fpir(np.array([above, 0.5]), np.array([0.5, 0.5, 0.1, above]), 0.25)
    assert (point.threshold, point.false_positives, point.false_negatives) == (above, 1, 1)


def test_a_wrong_person_at_rank_1_is_a_miss_at_any_threshold() -> None:
    point = fnir_at_fpir(np.array([0.9, 0.8, -np.inf]), np.array([0.5, 0.4]), 1.0)
    assert (point.fnir, point.false_positives, point.false_negatives) == (1 / 3, 2, 1)


def test_strangers_who_could_not_be_searched_are_no_false_positives() -> None:
    point = fnir_at_fpir(np.array([0.9, 0.1]), np.array([-np.inf] * 9 + [0.5]), 0.1)
    assert (point.false_positives, point.fnir) == (1, 0.0)
    assert np.isfinite(point.threshold)


def test_what_is_no_score_or_no_rank_is_a_defect() -> None:
    some = np.array([0.5])
    for bad in (np.array([0.1, np.nan]), np.array([np.inf]), np.array([]), np.ones((2, 2))):
        with pytest.raises(ValueError, match="^mated scores"):
            fnir_at_fpir(bad, some, 0.1)
        with pytest.raises(ValueError, match="non-mated scores"):
            fnir_at_fpir(some, bad, 0.1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        fnir_at_fpir(some, some, 1.5)
    for ranks, depth in ((np.array([-1]), 3), (np.array([], np.int64), 3), (np.array([1]), 0)):
        with pytest.raises(ValueError, match="ranks must be"):
            found_within(ranks, depth)
