"""Thresholds from error rates and back, on calibrations whose tails have a closed form."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest

from service.decision.thresholds import DEFAULT_FMR, LISTED_FMRS, Thresholds
from service.errors import InvalidRequest, UnsupportedErrorRate
from service.evaluation.operating_points import CALIBRATION_FMRS
from service.runtime.card import Calibration, OperatingPoint

IMPOSTORS = NormalDist(0.05, 0.09)
GENUINE = NormalDist(0.62, 0.12)

MEASURED = sorted((fmr for fmr in CALIBRATION_FMRS if fmr >= 1e-6), reverse=True)
BETWEEN = [math.sqrt(a * b) for a, b in pairwise(MEASURED)] + [3.7e-2, 4e-4, 1.2e-6]


def normal_tail(fmr: float) -> float:
    return IMPOSTORS.inv_cdf(1 - fmr)


def exponential_tail(fmr: float) -> float:
    return 0.1 - 0.04 * math.log(fmr)


def calibration(tail: Callable[[float], float], fmrs: Sequence[float] = MEASURED) -> Calibration:
    points = tuple(OperatingPoint(fmr=fmr, threshold=tail(fmr), fnmr=GENUINE.cdf(tail(fmr))) for fmr in fmrs)
    draft = Calibration.model_construct(
        calibration_id="0" * 64,
        embedding_contract="1" * 64,
        detector="2" * 64,
        dataset="made up",
        dataset_sha256="3" * 64,
        persons=5000,
        photos=13000,
        genuine=200_000,
        impostor=80_000_000,
        points=points,
    )
    return Calibration.model_validate(draft.model_dump() | {"calibration_id": draft.digest()})


@pytest.fixture(scope="module")
def normal() -> Thresholds:
    return Thresholds(calibration(normal_tail))


@pytest.fixture(scope="module")
def exponential() -> Thresholds:
    return Thresholds(calibration(exponential_tail))


@pytest.mark.parametrize("tail", [normal_tail, exponential_tail])
def test_at_measured_rates_the_threshold_is_the_measured_one(tail: Callable[[float], float]) -> None:
    measured = calibration(tail)
    thresholds = Thresholds(measured)
    for point in measured.points:
        chosen = thresholds.choose(fmr=point.fmr)
        assert chosen.threshold == point.threshold
        assert chosen.fnmr == point.fnmr
        assert chosen.fmr == point.fmr
        assert chosen.calibration_id == measured.calibration_id


@pytest.mark.parametrize("fmr", BETWEEN)
def test_between_measured_rates_an_exponential_tail_is_met_exactly(exponential: Thresholds, fmr: float) -> None:
    assert exponential.choose(fmr=fmr).threshold == pytest.approx(exponential_tail(fmr), abs=1e-12)


@pytest.mark.parametrize("fmr", BETWEEN)
def test_between_measured_rates_a_normal_tail_is_met_nearly(normal: Thresholds, fmr: float) -> None:
    chosen = normal.choose(fmr=fmr)
    assert chosen.threshold == pytest.approx(normal_tail(fmr), abs=2e-3)
    assert 1 - IMPOSTORS.cdf(chosen.threshold) == pytest.approx(fmr, rel=0.1)
    assert chosen.fnmr is not None
    assert 0.97 < chosen.fnmr / GENUINE.cdf(normal_tail(fmr)) < 1.3  # a chord of a curve that bends upwards


@pytest.mark.parametrize("fmr", [*MEASURED, *BETWEEN])
def test_the_rate_at_a_threshold_undoes_the_threshold_at_a_rate(normal: Thresholds, fmr: float) -> None:
    chosen = normal.choose(fmr=fmr)
    back = normal.choose(threshold=chosen.threshold)
    assert back.threshold == chosen.threshold
    assert back.fmr == pytest.approx(fmr, rel=1e-9)
    assert back.fnmr == pytest.approx(chosen.fnmr, rel=1e-12)
    assert back.calibration_id == chosen.calibration_id


def test_stricter_rates_have_higher_thresholds(normal: Thresholds) -> None:
    rates = np.geomspace(MEASURED[0], MEASURED[-1], 200)
    chosen = [normal.choose(fmr=float(np.clip(fmr, MEASURED[-1], MEASURED[0]))) for fmr in rates]
    assert np.all(np.diff([point.threshold for point in chosen]) > 0)
    assert np.all(np.diff([point.fnmr for point in chosen if point.fnmr is not None]) >= 0)
    assert len(chosen) == 200


def test_without_a_choice_the_rate_is_one_in_ten_thousand(normal: Thresholds) -> None:
    assert DEFAULT_FMR == 1e-4
    assert normal.choose() == normal.choose(fmr=1e-4)


@pytest.mark.parametrize("fmr", [0.0, 1e-9, 0.99e-6, 1.0, 0.9, 2.0, -1e-3, math.nan, math.inf])
def test_rates_that_were_not_measured_are_refused_with_those_that_were(normal: Thresholds, fmr: float) -> None:
    with pytest.raises(UnsupportedErrorRate, match="outside what the calibration supports") as caught:
        normal.choose(fmr=fmr)
    assert caught.value.details == {"smallest_fmr": MEASURED[-1], "largest_fmr": MEASURED[0]}
    assert "80,000,000 impostor comparisons" in caught.value.message


def test_the_ends_of_what_was_measured_are_supported(normal: Thresholds) -> None:
    for fmr in (MEASURED[0], MEASURED[-1]):
        assert normal.choose(fmr=fmr).fmr == fmr
        assert normal.choose(threshold=normal_tail(fmr)).fmr == pytest.approx(fmr)


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.9, 1.0])
def test_a_threshold_beyond_what_was_measured_has_no_known_rates(normal: Thresholds, threshold: float) -> None:
    point = normal.choose(threshold=threshold)
    assert (point.threshold, point.fmr, point.fnmr) == (threshold, None, None)


def test_rate_and_threshold_together_are_refused(normal: Thresholds) -> None:
    with pytest.raises(InvalidRequest, match=r"not both \(fmr=0.001, threshold=0.5\)") as caught:
        normal.choose(fmr=1e-3, threshold=0.5)
    assert not isinstance(caught.value, UnsupportedErrorRate)
    with pytest.raises(InvalidRequest, match="not both"):
        Thresholds(None).choose(fmr=1e-3, threshold=0.0)


@pytest.mark.parametrize("fmr", [None, 1e-3])
def test_without_a_calibration_no_rate_can_be_asked_for(fmr: float | None) -> None:
    with pytest.raises(InvalidRequest, match="no calibration"):
        Thresholds(None).choose(fmr=fmr)


def test_without_a_calibration_a_threshold_is_taken_as_it_is() -> None:
    point = Thresholds(None).choose(threshold=0.4)
    assert (point.threshold, point.fmr, point.fnmr, point.calibration_id) == (0.4, None, None, None)
    assert Thresholds(None).listed() == []


def test_a_threshold_of_zero_is_a_threshold(normal: Thresholds) -> None:
    assert normal.choose(threshold=0.0).threshold == 0.0
    assert Thresholds(None).choose(threshold=0.0).threshold == 0.0


def test_the_usual_points_are_listed_from_lax_to_strict(normal: Thresholds) -> None:
    assert normal.listed() == [normal.choose(fmr=fmr) for fmr in LISTED_FMRS]
    assert [point.fmr for point in normal.listed()] == [1e-3, 1e-4, 1e-5, 1e-6]


def test_only_points_that_were_measured_are_listed() -> None:
    few = Thresholds(calibration(normal_tail, [1e-2, 1e-4, 3e-6]))
    assert [point.fmr for point in few.listed()] == [1e-3, 1e-4, 1e-5]
    assert Thresholds(calibration(normal_tail, [1e-2, 5e-3])).listed() == []


def test_equal_thresholds_of_several_rates_do_no_harm() -> None:
    stepped = Thresholds(
        calibration(lambda fmr: 0.5 if 1e-5 < fmr < 1e-2 else exponential_tail(fmr) + 0.1, [1e-1, 1e-3, 1e-4, 1e-6])
    )
    assert stepped.choose(fmr=1e-3).threshold == stepped.choose(fmr=1e-4).threshold == 0.5
    at = stepped.choose(threshold=0.5)
    assert at.fmr is not None
    assert at.fmr * (1 + 1e-9) >= 1e-4
    assert at.fmr <= 1e-3 * (1 + 1e-9)
