"""Calibrations of embeddings whose score distributions are known."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import betainc, betaincinv

from service.decision.thresholds import Thresholds
from service.errors import UnsupportedErrorRate
from service.evaluation.best_of import measure_best_of
from service.evaluation.calibration import calibrate_embeddings
from service.runtime.card import Calibration

MODEL = {"embedding_contract": "1" * 64, "detector": "2" * 64}
D, PERSONS = 16, 2500


def directions(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    vectors = rng.normal(size=(n, D))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def fmr_of(threshold: float) -> float:
    """Of uniform directions: (1 + cosine) / 2 is Beta((d − 1) / 2, (d − 1) / 2)."""
    return float(betainc((D - 1) / 2, (D - 1) / 2, (1 - threshold) / 2))


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    """Every tenth person has a second photo, at a cosine of 0.9."""
    rng = np.random.default_rng(7)
    first = directions(rng, PERSONS)
    aside = directions(rng, PERSONS)
    aside -= (aside * first).sum(axis=1, keepdims=True) * first
    second = 0.9 * first + np.sqrt(1 - 0.81) * aside / np.linalg.norm(aside, axis=1, keepdims=True)
    embeddings = np.concatenate([first, second[::10]]).astype(np.float32)
    persons = np.concatenate([np.arange(PERSONS), np.arange(PERSONS)[::10]])
    made = calibrate_embeddings(embeddings, persons, ("directions", "3" * 64), MODEL)
    assert made is not None
    return made


def test_thresholds_are_those_of_the_known_distribution(calibration: Calibration) -> None:
    for fmr in (1e-1, 1e-2, 1e-3, 1e-4):
        point = Thresholds(calibration).choose(fmr=fmr)
        assert point.fmr_interval is not None
        assert point.fmr_interval[0] <= fmr_of(point.threshold) <= point.fmr_interval[1]
        assert point.threshold == pytest.approx(1 - 2 * betaincinv((D - 1) / 2, (D - 1) / 2, fmr), abs=0.01)
        assert point.fnmr == 0
        assert point.fnmr_interval is not None
        assert point.fnmr_interval[1] == pytest.approx(1 - 0.025 ** (1 / 250), rel=1e-6)


def test_the_curve_ends_where_three_errors_would_have_to_speak(calibration: Calibration) -> None:
    dyads = PERSONS * (PERSONS - 1) / 2
    assert 3 / dyads <= calibration.points[-1].fmr < 3 / dyads * 1.6
    thresholds = Thresholds(calibration)
    with pytest.raises(UnsupportedErrorRate, match="extrapolate=true answers down to") as caught:
        thresholds.choose(fmr=1e-8)
    assert caught.value.details["smallest_fmr"] == calibration.points[-1].fmr
    assert caught.value.details["smallest_extrapolated_fmr"] < 1e-9


def test_the_tail_says_what_it_is_and_holds_the_truth(calibration: Calibration) -> None:
    for fmr in (1e-7, 1e-8, 1e-9):
        point = Thresholds(calibration).choose(fmr=fmr, extrapolate=True)
        assert point.extrapolated
        assert point.fmr_interval is not None
        assert point.fmr_interval[0] <= fmr_of(point.threshold) <= point.fmr_interval[1]
    measured = Thresholds(calibration).choose(fmr=1e-4, extrapolate=True)
    assert not measured.extrapolated
    assert measured == Thresholds(calibration).choose(fmr=1e-4)


def test_figures_and_digest_survive_the_file(calibration: Calibration) -> None:
    assert Calibration.model_validate_json(calibration.model_dump_json()) == calibration
    assert (calibration.persons, calibration.photos) == (PERSONS, PERSONS + 250)
    assert calibration.genuine == 250


@pytest.mark.parametrize(("alike", "expected"), [(True, 0.0), (False, 1.0)])
def test_photos_all_alike_are_one_chance_and_unlike_ones_as_many_as_there_are(alike: bool, expected: float) -> None:
    rng = np.random.default_rng(8)
    persons = np.repeat(np.arange(300), 4)
    vectors = directions(rng, 300)[persons] if alike else directions(rng, 1200)
    found = measure_best_of(vectors.astype(np.float32), persons, np.array([0.6, 0.7]))
    assert found is not None
    assert found.fmr_exponent == pytest.approx(expected, abs=0.05)
    if alike:
        assert found.fnmr_exponent == 0  # nobody was missed


def test_misses_fall_as_drawing_photos_at_random_says() -> None:
    """Two of everybody's ten photos are useless. A useful probe is missed with k photos where all of them are
    useless: 2/9 for one, 1/36 for two, 0 for more; a useless probe always."""
    rng = np.random.default_rng(9)
    persons = np.repeat(np.arange(200), 10)
    vectors = directions(rng, 200)[persons]
    useless = np.arange(2000) % 10 < 2
    vectors[useless] = directions(rng, int(useless.sum()))
    found = measure_best_of(vectors.astype(np.float32), persons, np.array([0.6]))
    assert found is not None
    missed = {1: 0.8 * 2 / 9 + 0.2, 2: 0.8 / 36 + 0.2, 3: 0.2, 5: 0.2, 8: 0.2}
    logs = {k: (math.log(k), math.log(missed[1] / missed[k])) for k in (2, 3, 5, 8)}
    above = sum(missed[k] * log * fall for k, (log, fall) in logs.items())
    below = sum(missed[k] * log**2 for k, (log, _) in logs.items())
    assert found.fnmr_exponent == pytest.approx(above / below, rel=0.02)
