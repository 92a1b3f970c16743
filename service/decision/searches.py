"""Operating points of a search: the rate that counts grows with the number of persons searched.

A search of N persons makes N comparisons with strangers, so a false positive identification has the probability
FPIR = 1 − (1 − FMR)^N if they were independent (ISO/IEC 19795-1).
"""

import math
from dataclasses import dataclass

from service.decision.thresholds import UNCALIBRATED, Thresholds
from service.errors import InvalidRequest, UnsupportedErrorRate

DEFAULT_FPIR = 0.01


@dataclass(frozen=True)
class SearchPoint:
    """The rule that was used: a candidate is identified when its ``similarity >= threshold``.

    Attributes:
        fmr: false match rate of one comparison; None where the calibration cannot say.
        fpir: expected rate of searches in which a stranger is identified, for the persons that were searched.
    """

    threshold: float
    fmr: float | None
    fpir: float | None
    calibration_id: str | None


def choose_search_point(
    thresholds: Thresholds,
    persons: int,
    fpir: float | None = None,
    fmr: float | None = None,
    threshold: float | None = None,
) -> SearchPoint:
    """The operating point for a search of ``persons`` persons.

    Without a rate: FPIR 1 %, or where so large a gallery is beyond the calibration, its strictest point; the answer
    says which FPIR to expect of it.

    Raises:
        InvalidRequest: more than one of ``fpir``, ``fmr`` and ``threshold``.
        UnsupportedErrorRate: the calibration cannot support the rate in a gallery of this size.
    """
    given = {name: v for name, v in (("fpir", fpir), ("fmr", fmr), ("threshold", threshold)) if v is not None}
    if len(given) > 1:
        raise InvalidRequest(f"Give one of fpir, fmr and threshold, not {' and '.join(given)}.")
    if not given:
        return _default(thresholds, persons)
    if fpir is not None:
        fmr = fmr_for(fpir, persons)
        largest = thresholds.largest_fmr
        # A small gallery allows more than was ever measured; the laxest measured point keeps the promise.
        fmr = min(fmr, largest) if largest is not None else fmr
    try:
        point = thresholds.choose(fmr, threshold)
    except UnsupportedErrorRate as error:
        if fpir is None:
            raise
        smallest = fpir_of(error.details["smallest_fmr"], persons)
        raise UnsupportedErrorRate(
            f"An FPIR of {fpir:g} among {persons:,} persons needs an FMR of {fmr:.3g}; the calibration supports "
            f"an FPIR of {smallest:.3g} or more.",
            {**error.details, "smallest_fpir": smallest},
        ) from error
    return SearchPoint(point.threshold, point.fmr, fpir_of(point.fmr, persons), point.calibration_id)


def fmr_for(fpir: float, persons: int) -> float:
    """The false match rate at which a search of ``persons`` strangers has this FPIR."""
    return -math.expm1(math.log1p(-fpir) / max(persons, 1))


def fpir_of(fmr: float | None, persons: int) -> float | None:
    """FPIR = 1 − (1 − FMR)^N."""
    return None if fmr is None else -math.expm1(persons * math.log1p(-fmr))


def _default(thresholds: Thresholds, persons: int) -> SearchPoint:
    smallest, largest = thresholds.smallest_fmr, thresholds.largest_fmr
    if smallest is None or largest is None:
        raise InvalidRequest(UNCALIBRATED)
    point = thresholds.choose(min(max(fmr_for(DEFAULT_FPIR, persons), smallest), largest))
    return SearchPoint(point.threshold, point.fmr, fpir_of(point.fmr, persons), point.calibration_id)
