"""Figures of merit against exact loops, closed forms of normal scores, and the outside checker's formulas."""

import itertools
from fractions import Fraction
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import InvalidRequest
from service.evaluation.metrics import (
    cross_validated_accuracy,
    equal_error_rate,
    most_errors,
    roc,
    tar_at_far,
)

Floats = NDArray[np.float64]
STANDARD = NormalDist()


def tied_scores(seed: int, n: int = 60) -> tuple[Floats, Floats]:
    """Overlapping genuine and impostor scores with many ties, within and between the two, and some -inf."""
    rng = np.random.default_rng(seed)
    genuine = np.round(rng.normal(0.5, 0.25, n), 1)
    impostor = np.round(rng.normal(0.1, 0.25, n + 17), 1)
    genuine[:3] = impostor[:2] = -np.inf
    return genuine, impostor


def rate(scores: Floats, threshold: float) -> Fraction:
    return Fraction(sum(1 for score in scores if score >= threshold), len(scores))


def exact_eer(genuine: Floats, impostor: Floats) -> float:
    thresholds = sorted({t for t in [*genuine, *impostor] if t > -np.inf}, reverse=True)
    corners = [(Fraction(0), Fraction(1))]
    corners += [(rate(impostor, t), 1 - rate(genuine, t)) for t in thresholds]
    corners += [(Fraction(1), Fraction(0))]
    for (fmr0, fnmr0), (fmr1, fnmr1) in itertools.pairwise(corners):
        if fmr1 >= fnmr1:
            # Where the line from corner to corner meets fmr = fnmr.
            s = (fnmr0 - fmr0) / ((fnmr0 - fmr0) + (fmr1 - fnmr1))
            return float(fmr0 + s * (fmr1 - fmr0))
    raise AssertionError("the last corner is on the other side")


def checker_folds(score: Floats, same: NDArray[Any], found: NDArray[Any], fold: NDArray[Any]) -> list[float]:
    """Accuracy per fold as shared/acceptance/lfw_http.py has it, in loops: undetected pairs have score -1."""
    score = np.where(found, score, -1.0)
    accuracy = []
    for k in sorted(set(fold.tolist())):
        best, chosen = -1, 0.0
        for t in sorted(set(score.tolist())):
            right = sum((s >= t) == y for s, y, f in zip(score, same, fold, strict=True) if f != k)
            if right > best:
                best, chosen = right, t
        test = [ok and (s >= chosen) == y for s, y, ok, f in zip(score, same, found, fold, strict=True) if f == k]
        accuracy.append(sum(test) / len(test))
    return accuracy


def protocol(seed: int, digits: int) -> tuple[Floats, NDArray[np.bool_], NDArray[np.int64], NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    labels = np.tile(np.repeat([True, False], 12), 5)
    scores = np.round(np.where(labels, rng.normal(0.5, 0.2, 120), rng.normal(0.1, 0.2, 120)), digits)
    return scores.clip(-0.9, 1), labels, np.arange(120) // 24, rng.random(120) > 0.07


@pytest.mark.parametrize("seed", range(5))
def test_roc_is_the_share_at_or_above_each_threshold(seed: int) -> None:
    genuine, impostor = tied_scores(seed)
    curve = roc(genuine, impostor)
    assert curve.thresholds.tolist() == sorted({*genuine, *impostor} - {-np.inf}, reverse=True)
    assert curve.fmr.tolist() == [float(rate(impostor, t)) for t in curve.thresholds]
    assert curve.tmr.tolist() == [float(rate(genuine, t)) for t in curve.thresholds]


@pytest.mark.parametrize("bad", [np.array([0.1, np.nan]), np.array([np.inf]), np.array([]), np.ones((2, 2))])
def test_scores_that_are_none_are_refused(bad: Floats) -> None:
    with pytest.raises(ValueError, match="impostor score"):
        roc(np.array([0.5]), bad)
    with pytest.raises(ValueError, match="genuine score"):
        tar_at_far(bad, np.array([0.5]), 0.1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("far", [0.0, 0.001, 0.05, 0.1, 0.29, 0.5, 0.99, 1.0])
def test_tar_at_far_is_the_best_over_all_thresholds(seed: int, far: float) -> None:
    genuine, impostor = tied_scores(seed)
    finite = [t for t in [*genuine, *impostor] if t > -np.inf]
    candidates = [*finite, *(np.nextafter(t, np.inf) for t in finite)]
    best = max(rate(genuine, t) for t in candidates if rate(impostor, t) <= Fraction(str(far)))
    assert tar_at_far(genuine, impostor, far) == float(best)


def test_a_decimal_rate_permits_as_many_errors_as_it_says() -> None:
    assert [most_errors(percent / 100, 100) for percent in range(101)] == list(range(101))


def test_tied_impostors_come_in_together_or_not_at_all() -> None:
    genuine, impostor = np.array([0.9, 0.5, 0.4]), np.array([0.5, 0.5, 0.1, 0.0])
    assert tar_at_far(genuine, impostor, 0.25) == pytest.approx(1 / 3)
    assert tar_at_far(genuine, impostor, 0.5) == 1.0


@pytest.mark.parametrize("far", [-0.1, 1.1, float("nan")])
def test_a_rate_outside_0_to_1_is_refused(far: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        tar_at_far(np.array([0.5]), np.array([0.1]), far)


@pytest.mark.parametrize("seed", range(10))
def test_equal_error_rate_is_the_crossing_of_the_roc(seed: int) -> None:
    genuine, impostor = tied_scores(seed)
    assert equal_error_rate(genuine, impostor) == pytest.approx(exact_eer(genuine, impostor), abs=1e-12)


@pytest.mark.parametrize(
    ("genuine", "impostor", "expected"),
    [
        ([0.8, 0.9], [0.1, 0.2], 0.0),
        ([0.1, 0.2], [0.8, 0.9], 1.0),
        ([0.5, 0.5], [0.5, 0.5], 0.5),
        ([0.9, -np.inf], [0.1, 0.2], 0.5),
    ],
)
def test_equal_error_rate_of_plain_cases(genuine: list[float], impostor: list[float], expected: float) -> None:
    assert equal_error_rate(np.array(genuine), np.array(impostor)) == expected


@pytest.mark.parametrize(("mean", "sigma"), [(3.0, 1.0), (2.0, 0.5), (1.0, 1.7)])
def test_normal_scores_have_the_rates_of_the_closed_form(mean: float, sigma: float) -> None:
    rng = np.random.default_rng(7)
    genuine, impostor = rng.normal(mean, sigma, 200_000), rng.normal(0, 1, 200_000)
    # Both errors are equal where the threshold is as many deviations from either mean.
    assert equal_error_rate(genuine, impostor) == pytest.approx(STANDARD.cdf(-mean / (1 + sigma)), abs=0.002)
    for far in (0.1, 0.01):
        expected = 1 - NormalDist(mean, sigma).cdf(STANDARD.inv_cdf(1 - far))
        assert tar_at_far(genuine, impostor, far) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("digits", [1, 2, 12])
@pytest.mark.parametrize("seed", range(8))
def test_cross_validation_agrees_with_the_outside_checker(seed: int, digits: int) -> None:
    scores, labels, folds, detected = protocol(seed, digits)
    assert detected.sum() < 120
    result = cross_validated_accuracy(scores, labels, folds, detected)
    assert result.folds.tolist() == [0, 1, 2, 3, 4]
    assert result.accuracy.tolist() == checker_folds(scores, labels, detected, folds)
    assert result.correct.reshape(5, 24).mean(axis=1).tolist() == result.accuracy.tolist()


def test_a_fold_has_no_say_in_its_own_threshold() -> None:
    scores, labels, folds, detected = protocol(0, 12)
    before = cross_validated_accuracy(scores, labels, folds, detected)
    scores[folds == 2] = np.random.default_rng(1).uniform(0.4, 0.6, 24)
    labels[folds == 2] = False
    after = cross_validated_accuracy(scores, labels, folds, detected)
    assert after.thresholds[2] == before.thresholds[2]
    assert (np.delete(after.thresholds, 2) > np.delete(before.thresholds, 2)).all()


@pytest.mark.parametrize("filler", [np.nan, -np.inf, -1.0, 1.0])
@pytest.mark.parametrize("label", [True, False])
def test_an_undetected_pair_is_an_error_and_nothing_else(filler: float, label: bool) -> None:
    scores = np.array([0.9, 0.8, 0.2, 0.9, 0.2, 0.1, filler])
    labels = np.array([True, True, False, True, False, False, label])
    folds = np.array([0, 0, 0, 1, 1, 1, 1])
    detected = np.array([True] * 6 + [False])
    result = cross_validated_accuracy(scores, labels, folds, detected)
    assert result.accuracy.tolist() == [1.0, 0.75]
    assert not result.accepted[6]
    assert not result.correct[6]
    assert result.thresholds.tolist() == [np.nextafter(0.2, 1)] * 2


def test_among_equal_thresholds_the_lowest_is_taken() -> None:
    # Right three times out of four above 0.1 and above 0.5 alike.
    scores, labels = np.array([0.1, 0.3, 0.5, 0.7]), np.array([False, True, False, True])
    result = cross_validated_accuracy(np.tile(scores, 2), np.tile(labels, 2), np.arange(8) // 4, np.ones(8, np.bool_))
    assert result.thresholds.tolist() == [np.nextafter(0.1, 1)] * 2


def test_accepting_everything_has_a_finite_threshold() -> None:
    scores, folds = np.array([0.3, 0.6, 0.2, 0.5]), np.array([0, 0, 1, 1])
    result = cross_validated_accuracy(scores, np.ones(4, np.bool_), folds, np.ones(4, np.bool_))
    assert result.thresholds.tolist() == [0.2, 0.2]
    assert result.accuracy.tolist() == [1.0, 1.0]


def test_a_single_fold_is_tested_at_its_own_best_threshold() -> None:
    scores, labels = np.array([0.1, 0.4, 0.3, 0.9]), np.array([False, False, True, True])
    result = cross_validated_accuracy(scores, labels, np.zeros(4, np.int64), np.ones(4, np.bool_))
    assert result.thresholds.tolist() == [np.nextafter(0.1, 1)]
    assert result.accuracy.tolist() == [0.75]


def test_folds_without_any_face_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="fold 0: no pair"):
        cross_validated_accuracy(
            np.zeros(4), np.ones(4, np.bool_), np.array([0, 0, 1, 1]), np.array([True, True, False, False])
        )


def test_arrays_that_do_not_fit_are_a_defect() -> None:
    with pytest.raises(ValueError, match="one length"):
        cross_validated_accuracy(np.zeros(3), np.ones(4, np.bool_), np.arange(4), np.ones(4, np.bool_))
    with pytest.raises(ValueError, match="finite"):
        cross_validated_accuracy(np.full(4, np.nan), np.ones(4, np.bool_), np.arange(4), np.ones(4, np.bool_))
