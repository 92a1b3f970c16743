"""From the rate of a search to that of one comparison, by how many persons with how many photos are searched."""

import numpy as np
import pytest

from service.decision.persons import Searched
from service.decision.searches import Wanted, choose_person_point, choose_search_point
from service.decision.thresholds import Thresholds
from service.errors import InvalidRequest, UnsupportedErrorRate
from service.runtime.card import BestOf, Calibration, OfMean, OperatingPoint, Tail

FMRS = tuple(10 ** (-1 - k / 10) for k in range(51))
# Of 4 photos and of 9.
STRETCH = {1: 1.0, 4: (3.4 / 2.8) ** 0.5, 9: (7.4 / 5.8) ** 0.5}


def threshold_of(fmr: float) -> float:
    """An exponential tail: a factor of ten every 0.1."""
    return -0.1 * float(np.log10(fmr))


def point(fmr: float) -> OperatingPoint:
    return OperatingPoint(fmr=fmr, threshold=threshold_of(fmr), fnmr=0.02, fmr_low=fmr / 2, fmr_high=fmr * 2,
                          fnmr_low=0.01, fnmr_high=0.04)  # fmt: skip


def thresholds_of(best_of: BestOf | None = None, of_mean: OfMean | None = None) -> Thresholds:
    tail = Tail(
        start_fmr=1e-4,
        start_threshold=threshold_of(1e-4),
        shape=0.0,
        scale=0.1 / np.log(10),
        exceedances=500,
        points=tuple(point(FMRS[-1] * 10 ** (-k / 5)) for k in range(1, 16)),
    )
    draft = Calibration.model_construct(
        embedding_contract="1" * 64,
        detector="2" * 64,
        dataset="made up",
        dataset_sha256="3" * 64,
        persons=5000,
        photos=13000,
        genuine=200_000,
        impostor=80_000_000,
        effective_impostor=1e7,
        points=tuple(point(fmr) for fmr in FMRS),
        best_of=best_of,
        of_mean=of_mean,
        tail=tail,
    )
    return Thresholds(Calibration.model_validate(draft.model_dump() | {"calibration_id": draft.digest()}))


@pytest.fixture(scope="module")
def thresholds() -> Thresholds:
    return thresholds_of(of_mean=OfMean(photo_likeness=0.6, stranger_likeness=0.8, fnmr_shares=(1.0, 0.5, 0.3, 0.2)))


@pytest.mark.parametrize("sizes", [{1: 100}, {1: 50, 4: 50}, {9: 1000}])
@pytest.mark.parametrize("fpir", [0.1, 0.01])
def test_strangers_of_known_scores_are_identified_as_often_as_was_asked(
    thresholds: Thresholds, sizes: dict[int, int], fpir: float
) -> None:
    """Scores are drawn from the very tail of the calibration, and stretched by the number of photos."""
    chosen = choose_search_point(thresholds, sizes, Wanted(fpir=fpir))
    rng = np.random.default_rng(3)
    highest = np.zeros(200_000)
    for photos, persons in sizes.items():
        # The highest of so many scores with P(s >= t) = 10^(-t / 0.1), by its inverse distribution function.
        alone = -0.1 * np.log10(-np.expm1(np.log(rng.random(200_000)) / persons))
        highest = np.maximum(highest, STRETCH[photos] * alone)
    assert (highest >= chosen.threshold).mean() == pytest.approx(fpir, rel=0.06)
    assert chosen.fpir == pytest.approx(fpir, rel=1e-6)
    assert chosen.fmr == pytest.approx(10 ** (-chosen.threshold / 0.1), rel=1e-6)


def test_more_photos_raise_the_threshold_and_lower_the_misses(thresholds: Thresholds) -> None:
    one, nine = (choose_search_point(thresholds, {k: 100}, Wanted(fpir=0.01)) for k in (1, 9))
    assert nine.threshold == pytest.approx(one.threshold * STRETCH[9], abs=1e-4)
    assert one.fmr == pytest.approx(1 - (1 - 0.01) ** (1 / 100), rel=1e-6)
    assert one.fnir == pytest.approx(0.02)
    assert nine.fnir == pytest.approx(0.02 * 0.2)
    mixed = choose_search_point(thresholds, {1: 30, 2: 10}, Wanted(fpir=0.01))
    assert mixed.fnir == pytest.approx(0.02 * (30 + 5) / 40)


@pytest.mark.parametrize("best_of", [None, BestOf(fmr_exponent=0.5, fnmr_exponent=1.0)])
def test_a_calibration_without_means_is_taken_for_the_worst_of_what_it_says(best_of: BestOf | None) -> None:
    older = thresholds_of(best_of)
    four = choose_search_point(older, {4: 100}, Wanted(fpir=0.01))
    chances, misses = (400, 1) if best_of is None else (200, 1 / 4)
    assert four.fmr == pytest.approx(1 - (1 - 0.01) ** (1 / chances), rel=1e-5)
    assert four.fnir == pytest.approx(0.02 * misses)
    person = choose_person_point(older, 4, 1e-4, None)
    assert person.threshold == pytest.approx(threshold_of(1e-4 / (chances / 100)), abs=1e-4)
    assert (person.fmr, person.fnmr) == (pytest.approx(1e-4), pytest.approx(0.02 * misses))
    # The strictest point there is, and what it comes to.
    assert choose_person_point(older, 4, 1e-6, None).fmr == pytest.approx(1e-6 * chances / 100, rel=1e-3)
    assert older.curve is not None
    assert older.curve.smallest_extrapolated_fmr is not None
    last = choose_person_point(older, 4, older.curve.smallest_extrapolated_fmr, None, extrapolate=True)
    assert (last.threshold, last.fmr) == (older.curve.end, pytest.approx(1e-9 * chances / 100, rel=1e-3))


def test_the_interval_of_the_fpir_follows_from_that_of_the_fmr(thresholds: Thresholds) -> None:
    chosen = choose_search_point(thresholds, {1: 100}, Wanted(fmr=1e-4))
    assert chosen.fmr_interval == pytest.approx((5e-5, 2e-4), rel=1e-6)
    assert chosen.fpir_interval == pytest.approx((1 - (1 - 5e-5) ** 100, 1 - (1 - 2e-4) ** 100), rel=1e-6)


def test_a_rate_that_so_large_a_gallery_does_not_allow_is_refused_unless_extrapolated(thresholds: Thresholds) -> None:
    sizes = {1: 1_000_000}
    with pytest.raises(
        UnsupportedErrorRate, match=r"among 1,000,000 persons needs an FMR of about 1e-09.*extrapolate=true"
    ) as caught:
        choose_search_point(thresholds, sizes, Wanted(fpir=0.001))  # fmt: skip
    assert caught.value.details["smallest_fpir"] == pytest.approx(1 - (1 - 1e-6) ** 1e6, rel=1e-3)
    assert caught.value.details["smallest_extrapolated_fpir"] == pytest.approx(1e-3, rel=0.01)
    # What is told to be possible is.
    for extrapolate, told in ((False, "smallest_fpir"), (True, "smallest_extrapolated_fpir")):
        smallest = caught.value.details[told]
        assert choose_search_point(thresholds, sizes, Wanted(smallest, extrapolate=extrapolate)).fpir == smallest
    far = choose_search_point(thresholds, sizes, Wanted(fpir=0.002, extrapolate=True))
    assert far.extrapolated
    assert far.threshold == pytest.approx(threshold_of(2e-9), abs=1e-3)


def test_without_a_rate_it_is_one_per_cent_or_the_strictest_there_is(thresholds: Thresholds) -> None:
    assert choose_search_point(thresholds, {1: 1000}, Wanted()).fpir == pytest.approx(0.01, rel=1e-5)
    large = choose_search_point(thresholds, {1: 1_000_000}, Wanted())
    assert large.fmr == pytest.approx(FMRS[-1])
    assert large.fpir == pytest.approx(1 - (1 - 1e-6) ** 1e6, rel=1e-3)
    assert choose_search_point(thresholds, {1: 1_000_000}, Wanted(extrapolate=True)).fpir == pytest.approx(
        0.01, rel=1e-5
    )


def test_a_tail_that_rests_on_the_last_counted_threshold_does_not_speak_for_it() -> None:
    """Where label errors or twins hold the counted threshold up, the tail's first points have the same one."""
    older = thresholds_of().calibration
    assert older is not None
    assert older.tail is not None
    held = tuple(p.model_copy(update={"threshold": max(p.threshold, older.points[-1].threshold + 0.05)})
                 for p in older.tail.points)  # fmt: skip
    last = older.points[-1].model_copy(update={"threshold": older.points[-1].threshold + 0.05})
    draft = older.model_copy(
        update={"points": (*older.points[:-1], last), "tail": older.tail.model_copy(update={"points": held})}
    )
    held_up = Thresholds(Calibration.model_validate(draft.model_dump() | {"calibration_id": draft.digest()}))
    assert sum(p.threshold == last.threshold for p in held) >= 2
    point = held_up.choose(threshold=last.threshold)
    assert (point.fmr, point.extrapolated) == (pytest.approx(last.fmr), False)
    assert point.fmr_interval == pytest.approx((last.fmr / 2, last.fmr * 2))
    large = choose_search_point(held_up, {1: 1_000_000}, Wanted())
    assert large.fpir == pytest.approx(1 - (1 - 1e-6) ** 1e6, rel=1e-3)


def test_an_empty_gallery_identifies_nobody(thresholds: Thresholds) -> None:
    empty = choose_search_point(thresholds, {}, Wanted(fpir=0.01))
    assert (str(empty.fpir), empty.fnir) == ("0.0", None)  # and not -0.0


def test_two_rates_are_refused_and_so_is_a_rate_without_calibration(thresholds: Thresholds) -> None:
    with pytest.raises(InvalidRequest, match="one of fpir, fmr and threshold, not fpir and threshold"):
        choose_search_point(thresholds, {1: 10}, Wanted(fpir=0.1, threshold=0.5))
    with pytest.raises(InvalidRequest, match="no calibration"):
        choose_search_point(Thresholds(None), {1: 10}, Wanted())
    assert choose_search_point(Thresholds(None), {1: 10}, Wanted(threshold=0.5)).fpir is None


def test_a_small_gallery_gets_the_laxest_threshold_that_was_measured(thresholds: Thresholds) -> None:
    assert choose_search_point(thresholds, {1: 1}, Wanted(fpir=0.5)).threshold == threshold_of(0.1)
    # Of nine photos, what was measured begins higher up; below it nothing is said.
    nine = choose_search_point(thresholds, {9: 1}, Wanted(fpir=0.5))
    assert nine.threshold == pytest.approx(threshold_of(0.1) * STRETCH[9], abs=1e-6)
    assert nine.fpir == pytest.approx(0.1, rel=1e-4)
    below = choose_search_point(thresholds, {9: 1}, Wanted(threshold=threshold_of(0.1) * 1.01))
    assert (below.fpir, below.fmr) == (None, pytest.approx(10**-1.01))


def test_what_so_many_times_the_false_matches_would_do(thresholds: Thresholds) -> None:
    assert thresholds.calibration is not None
    assert thresholds.curve is not None
    searched = Searched(thresholds.calibration, thresholds.curve, {1: 100, 9: 100})
    at = threshold_of(1e-4)
    each = 100 * (1e-4 + 10 ** (-at / STRETCH[9] / 0.1))
    assert searched.fpir_at(at) == pytest.approx(1 - np.exp(-each), rel=1e-3)
    assert searched.fpir_at(at, 2.0) == pytest.approx(1 - np.exp(-2 * each), rel=2e-3)


def test_a_person_with_several_photos_has_the_rate_that_was_asked_for(thresholds: Thresholds) -> None:
    one, nine = (choose_person_point(thresholds, k, 1e-4, None) for k in (1, 9))
    assert one == thresholds.choose(fmr=1e-4)
    assert nine.fmr == 1e-4
    assert nine.threshold == pytest.approx(one.threshold * STRETCH[9])
    assert nine.fnmr == pytest.approx(0.02 * 0.2)
    assert nine.fmr_interval == one.fmr_interval
    raw = choose_person_point(thresholds, 9, None, one.threshold)
    assert raw.threshold == one.threshold
    assert raw.fmr == pytest.approx(10 ** (-one.threshold / STRETCH[9] / 0.1), rel=1e-6)
    assert choose_person_point(thresholds, 9, 1e-6, None).fmr == pytest.approx(1e-6)
    with pytest.raises(UnsupportedErrorRate):
        choose_person_point(thresholds, 9, 1e-7, None)
    with pytest.raises(InvalidRequest, match="cosine"):
        choose_person_point(thresholds, 9, None, 1.2)
