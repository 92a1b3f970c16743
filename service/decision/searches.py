"""Operating points of a search: the rate that counts grows with the number of persons searched, and of their photos.

A search of N persons compares a stranger with N strangers, so, were these comparisons independent, a false positive
identification has the probability FPIR = 1 − (1 − FMR)^N (ISO/IEC 19795-1). The most similar of a person's k photos
counts, which is like k^c persons with one photo each; the calibration has measured c between 0 (photos all alike) and
1 (photos like those of different persons). So N is the sum of k^c over the persons searched.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from service.decision.curve import Interval
from service.decision.thresholds import DEFAULT_FMR, UNCALIBRATED, OperatingPoint, Thresholds
from service.errors import InvalidRequest, UnsupportedErrorRate

DEFAULT_FPIR = 0.01

# How many persons have so many photos.
Sizes = Mapping[int, int]


@dataclass(frozen=True)
class SearchPoint:
    """The rule that was used: a candidate is identified when its ``similarity >= threshold``.

    Attributes:
        fmr: false match rate of one comparison; None where the calibration cannot say.
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


def choose_search_point(thresholds: Thresholds, sizes: Sizes, wanted: Wanted) -> SearchPoint:
    """The operating point for a search of these persons.

    Without a rate: FPIR 1 %, or where so large a gallery is beyond the calibration, its strictest point; the answer
    says which FPIR to expect of it.

    Args:
        sizes: how many of the persons searched have how many photos.

    Raises:
        InvalidRequest: more than one of ``fpir``, ``fmr`` and ``threshold``.
        UnsupportedErrorRate: the calibration cannot support the rate in a gallery of this size.
    """
    asked = {"fpir": wanted.fpir, "fmr": wanted.fmr, "threshold": wanted.threshold}
    given = [name for name, value in asked.items() if value is not None]
    if len(given) > 1:
        raise InvalidRequest(f"Give one of fpir, fmr and threshold, not {' and '.join(given)}.")
    fpir, fmr = wanted.fpir, wanted.fmr
    effective = effective_persons(thresholds, sizes)
    smallest, largest = thresholds.smallest_fmr, thresholds.largest_fmr
    if not given:
        if smallest is None or largest is None:
            raise InvalidRequest(UNCALIBRATED)
        fmr = fmr_for(DEFAULT_FPIR, effective)
        fmr = min(fmr if wanted.extrapolate else max(fmr, smallest), largest)
    elif fpir is not None:
        fmr = fmr_for(fpir, effective)
        # A small gallery allows more than was ever measured; the laxest measured point keeps the promise.
        fmr = min(fmr, largest) if largest is not None else fmr
    try:
        point = thresholds.choose(fmr, wanted.threshold, wanted.extrapolate)
    except UnsupportedErrorRate as error:
        if fpir is None:
            raise
        raise _unsupported(fpir, fmr, effective, wanted.extrapolate, error) from error
    return _searched(thresholds, point, sizes, effective)


def choose_person_point(
    thresholds: Thresholds, photos: int, fmr: float | None, threshold: float | None, extrapolate: bool = False
) -> OperatingPoint:
    """The operating point for a comparison with one person, of whose ``photos`` the most similar counts.

    Its rates are those of the whole comparison: the threshold is higher than for one photo, since there are more
    chances to match.

    Raises:
        As ``Thresholds.choose``; a rate that so many photos put beyond the calibration is answered by its ends.
    """
    chances = effective_persons(thresholds, {photos: 1})
    if threshold is None:
        wanted = DEFAULT_FMR if fmr is None else fmr
        thresholds.choose(fmr=wanted, extrapolate=extrapolate)  # refuses what nobody could be asked
        one = fmr_for(wanted, chances)
        smallest = thresholds.smallest_fmr
        one = max(one, smallest) if smallest is not None and not extrapolate else one
        point = thresholds.choose(fmr=one, extrapolate=extrapolate)
    else:
        point = thresholds.choose(fmr, threshold, extrapolate)
    ends = point.fmr_interval
    return replace(
        point,
        fmr=fpir_of(point.fmr, chances),
        fnmr=_fnir(thresholds, point, {photos: 1}),
        fmr_interval=None if ends is None else (_fpir(ends[0], chances), _fpir(ends[1], chances)),
        fnmr_interval=None if photos > 1 else point.fnmr_interval,
    )


def effective_persons(thresholds: Thresholds, sizes: Sizes) -> float:
    """How many persons with one photo each these are worth to a stranger's search."""
    best_of = thresholds.calibration.best_of if thresholds.calibration else None
    exponent = best_of.fmr_exponent if best_of else 0.0
    return math.fsum(persons * photos**exponent for photos, persons in sizes.items())


def fmr_for(fpir: float, persons: float) -> float:
    """The false match rate at which a search of ``persons`` strangers has this FPIR."""
    return -math.expm1(math.log1p(-fpir) / max(persons, 1))


def fpir_of(fmr: float | None, persons: float) -> float | None:
    """FPIR = 1 − (1 − FMR)^N."""
    return None if fmr is None else _fpir(fmr, persons)


def _fpir(fmr: float, persons: float) -> float:
    return -math.expm1(persons * math.log1p(-fmr)) if fmr < 1 else 1.0


def _searched(thresholds: Thresholds, point: OperatingPoint, sizes: Sizes, effective: float) -> SearchPoint:
    ends = point.fmr_interval
    return SearchPoint(
        point.threshold,
        point.fmr,
        fpir_of(point.fmr, effective),
        point.calibration_id,
        _fnir(thresholds, point, sizes),
        ends,
        None if ends is None else (_fpir(ends[0], effective), _fpir(ends[1], effective)),
        point.extrapolated,
    )


def _fnir(thresholds: Thresholds, point: OperatingPoint, sizes: Sizes) -> float | None:
    """Of the persons searched on average; that somebody else is yet more similar is rare beside it and left out."""
    persons = sum(sizes.values())
    if point.fnmr is None or not persons:
        return None
    best_of = thresholds.calibration.best_of if thresholds.calibration else None
    exponent = best_of.fnmr_exponent if best_of else 0.0
    return point.fnmr * math.fsum(n * photos**-exponent for photos, n in sizes.items()) / persons


def _unsupported(
    fpir: float, fmr: float | None, effective: float, extrapolate: bool, error: UnsupportedErrorRate
) -> UnsupportedErrorRate:
    smallest = fpir_of(error.details["smallest_fmr"], effective)
    details = {**error.details, "smallest_fpir": smallest}
    hint, tail = "", error.details.get("smallest_extrapolated_fmr")
    if tail is not None:
        details["smallest_extrapolated_fpir"] = fpir_of(tail, effective)
        if extrapolate:
            smallest = details["smallest_extrapolated_fpir"]
        else:
            hint = " extrapolate=true goes further, by a fitted tail."
    return UnsupportedErrorRate(
        f"An FPIR of {fpir:g} among {effective:,.0f} persons needs an FMR of {fmr:.3g}; the calibration supports "
        f"an FPIR of {smallest:.3g} or more.{hint}",
        details,
    )
