"""The fitted tail against distributions whose tail is known."""

import math

import numpy as np
import pytest

from service.evaluation.tail import Exceedances, TailFit, fit_tail, survival

PEOPLE = 1000


def draw(shape: float, scale: float, m: int, seed: int) -> Exceedances:
    rng = np.random.default_rng(seed)
    odds = 1 / rng.random(m)
    excess = scale * ((odds**shape - 1) / shape if shape else np.log(odds))
    first = rng.integers(0, PEOPLE, m)
    persons = np.stack([first, (first + rng.integers(1, PEOPLE, m)) % PEOPLE])
    return Exceedances(0.4, 0.4 + excess, persons, np.ones(m), PEOPLE)


@pytest.mark.parametrize("shape", [-0.2, 0.0, 0.15])
def test_shape_scale_and_rate_are_found(shape: float) -> None:
    fit = fit_tail(draw(shape, 0.03, 20_000, 1))
    assert fit.shape[0] == pytest.approx(shape, abs=0.03)
    assert fit.scale[0] == pytest.approx(0.03, rel=0.04)
    assert fit.fmr[0] == pytest.approx(20_000 / (PEOPLE * (PEOPLE - 1) / 2))


@pytest.mark.parametrize("shape", [-0.1, 0.0, 0.1])
def test_the_interval_holds_the_true_rate_far_beyond_the_data(shape: float) -> None:
    odds = 1000.0
    excess = 0.03 * ((odds**shape - 1) / shape if shape else math.log(odds))
    truth = 2000 / (PEOPLE * (PEOPLE - 1) / 2) / odds
    inside = [low <= truth <= high for low, high in (fit_tail(draw(shape, 0.03, 2000, seed)).interval_at(0.4 + excess)
                                                     for seed in range(8))]  # fmt: skip
    assert sum(inside) >= 7


@pytest.mark.parametrize("shape", [-0.3, -1e-9, 0.0, 0.2])
def test_threshold_and_rate_undo_each_other(shape: float) -> None:
    fit = TailFit(0.4, 10, *(np.array([value]) for value in (1e-4, shape, 0.03)))
    for fmr in (1e-4, 1e-6, 1e-9):
        threshold = fit.threshold_at(fmr)
        again = 1e-4 * survival(np.array([(threshold - 0.4) / 0.03]), fit.shape)[0]
        assert again == pytest.approx(fmr, rel=1e-6)


def test_beyond_the_end_of_a_bounded_tail_there_is_nothing() -> None:
    assert survival(np.array([2.1]), np.array([-0.5]))[0] == 0
    assert survival(np.array([1.0]), np.array([0.0]))[0] == pytest.approx(math.exp(-1))
