"""Operating points of searches, and of comparisons with an enrolled person.

The rate that counts for a search grows with the number of persons searched, and somewhat with that of their photos: see
``service.decision.persons``.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from service.decision.curve import Interval
from service.decision.persons import PersonRates, Searched, Sizes
from service.decision.thresholds import DEFAULT_FMR, UNCALIBRATED, OperatingPoint, Thresholds
from service.errors import InvalidRequest, UnsupportedErrorRate

DEFAULT_FPIR = 0.01


@dataclass(frozen=True)
class SearchPoint:
    """The rule that was used: a candidate is identified when its ``similarity >= threshold``.

    Attributes:
        fmr: false match rate of a comparison with one photo; None where the calibration cannot say.
        fpir: expected rate of searches in which a stranger is identified, for the persons that were searched.
        fnir: expected rate of searches in which an enrolled person is not found.
        fmr_interval, fpir_interval: the ends of 95 % intervals, as certain as the calibration is.
        extrapolated: the rates follow from a fitted tail.
    """

    threshold: float
    fmr: float | None
    fpir: float | None
    calibration_id: str | None
    fnir: float | None = None
    fmr_interval: Interval | None = None
    fpir_interval: Interval | None = None
    extrapolated: bool = False


@dataclass(frozen=True)
class Wanted:
    """What a caller asks of a search: one of ``fpir``, ``fmr`` and ``threshold``, or none of them.

    Attributes:
        extrapolate: answer below the rates that the calibration data can speak about, too.
    """

    fpir: float | None = None
    fmr: float | None = None
    threshold: float | None = None
    extrapolate: bool = False


def choose_search_point(
    thresholds: Thresholds, sizes: Sizes, wanted: Wanted, default_fpir: float = DEFAULT_FPIR
) -> SearchPoint:
    """The operating point for a search of these persons.

    Without a rate: FPIR 1 %, or where so large a gallery is beyond the calibration, its strictest point; the answer
    says which FPIR to expect of it.

    Args:
        sizes: how many of the persons searched have how many photos.
        default_fpir: where ``wanted`` names no rate.

    Raises:
        InvalidRequest: more than one of ``fpir``, ``fmr`` and ``threshold``.
        UnsupportedErrorRate: the calibration cannot support the rate in a gallery of this size.
    """
    asked = {"fpir": wanted.fpir, "fmr": wanted.fmr, "threshold": wanted.threshold}
    given = [name for name, value in asked.items() if value is not None]
    if len(given) > 1:
        raise InvalidRequest(f"Give one of fpir, fmr and threshold, not {' and '.join(given)}.")
    calibration, curve = thresholds.calibration, thresholds.curve
    if calibration is None or curve is None:
        if wanted.threshold is None:
            raise InvalidRequest(UNCALIBRATED)
        point = thresholds.choose(threshold=wanted.threshold)
        return SearchPoint(point.threshold, None, None, None)
    searched = Searched(calibration, curve, sizes)
    if wanted.threshold is not None or wanted.fmr is not None:
        point = thresholds.choose(wanted.fmr, wanted.threshold, wanted.extrapolate)
    else:
        highest = curve.end if wanted.extrapolate else curve.strictest
        threshold = searched.threshold_for(default_fpir if wanted.fpir is None else wanted.fpir, highest)
        if wanted.fpir is None and not wanted.extrapolate:
            threshold = min(threshold, curve.strictest)
        if threshold > highest:
            raise _unsupported(thresholds, searched, sizes, wanted)
        point = thresholds.choose(threshold=threshold, extrapolate=wanted.extrapolate)
    return _searched(point, searched)


def choose_person_point(
    thresholds: Thresholds, photos: int, fmr: float | None, threshold: float | None, extrapolate: bool = False
) -> OperatingPoint:
    """The operating point for a comparison with one person, who stands by the mean of ``photos``.

    Its rates are those of this very comparison: the threshold is higher than for one photo.

    Raises:
        As ``Thresholds.choose``; a rate that so many photos put beyond the calibration is answered by its ends.
    """
    asked = thresholds.choose(fmr, threshold, extrapolate)  # refuses what nobody could be asked
    if thresholds.calibration is None or photos == 1:
        return asked
    rates, several = PersonRates(thresholds.calibration), np.array([float(photos)])
    stretch, chances, misses = (float(f(several)[0]) for f in (rates.stretch, rates.chances, rates.misses))
    if threshold is None:
        one = fmr_for(DEFAULT_FMR if fmr is None else fmr, chances)
        point = thresholds.choose(fmr=_within(thresholds, one, extrapolate), extrapolate=extrapolate)
        threshold = min(point.threshold * stretch, 1.0)
    else:
        point = thresholds.choose(threshold=max(-1.0, min(threshold / stretch, 1.0)), extrapolate=extrapolate)
    # Misses were counted as far as the tail goes.
    missed, ends = thresholds.choose(threshold=threshold, extrapolate=True).fnmr, point.fmr_interval
    return replace(
        point,
        threshold=threshold,
        fmr=None if point.fmr is None else _any_of(point.fmr, chances),
        fnmr=None if missed is None else missed * misses,
        fmr_interval=None if ends is None else (_any_of(ends[0], chances), _any_of(ends[1], chances)),
        fnmr_interval=None,
    )


def fmr_for(fpir: float, persons: float) -> float:
    """The false match rate at which a search of ``persons`` strangers, one photo each, has this FPIR."""
    return -math.expm1(math.log1p(-fpir) / max(persons, 1))


def _within(thresholds: Thresholds, fmr: float, extrapolate: bool) -> float:
    """The rate that the calibration supports and that is nearest to this one."""
    curve = thresholds.curve
    assert curve is not None
    tail = curve.smallest_extrapolated_fmr if extrapolate else None
    return min(max(fmr, curve.smallest_fmr if tail is None else tail), curve.largest_fmr)


def _any_of(fmr: float, comparisons: float) -> float:
    """The rate of a false match in any of so many independent comparisons."""
    return -math.expm1(comparisons * math.log1p(-fmr)) if fmr < 1 else 1.0


def _searched(point: OperatingPoint, searched: Searched) -> SearchPoint:
    ends, missed, fpir_ends = point.fmr_interval, searched.share_missed(), None
    fpir = None if point.fmr is None else searched.fpir_at(point.threshold)
    if point.fmr is not None and fpir is not None and ends is not None:
        low, high = (searched.fpir_at(point.threshold, end / point.fmr) or 0.0 for end in ends)
        fpir_ends = low, high
    return SearchPoint(
        point.threshold,
        point.fmr,
        fpir,
        point.calibration_id,
        # That somebody else is yet more similar is rare beside it and left out.
        None if point.fnmr is None or missed is None else point.fnmr * missed,
        ends,
        fpir_ends,
        point.extrapolated,
    )


def _unsupported(thresholds: Thresholds, searched: Searched, sizes: Sizes, wanted: Wanted) -> UnsupportedErrorRate:
    curve, persons = thresholds.curve, sum(sizes.values())
    assert curve is not None
    fpir = DEFAULT_FPIR if wanted.fpir is None else wanted.fpir
    smallest = searched.fpir_at(curve.strictest)
    details = {"smallest_fmr": curve.smallest_fmr, "largest_fmr": curve.largest_fmr, "smallest_fpir": smallest}
    hint = ""
    if curve.smallest_extrapolated_fmr is not None:
        details["smallest_extrapolated_fmr"] = curve.smallest_extrapolated_fmr
        details["smallest_extrapolated_fpir"] = searched.fpir_at(curve.end)
        if wanted.extrapolate:
            smallest = details["smallest_extrapolated_fpir"]
        else:
            hint = " extrapolate=true goes further, by a fitted tail."
    return UnsupportedErrorRate(
        f"An FPIR of {fpir:g} among {persons:,} persons needs an FMR of about {fmr_for(fpir, persons):.3g}; the "
        f"calibration supports an FPIR of {smallest or 0:.3g} or more.{hint}",
        details,
    )
