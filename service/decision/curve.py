"""The calibration's curve: threshold ↔ FMR ↔ FNMR, with intervals, and where it ends.

Between two points the threshold is linear in log FMR: impostor scores fall off about exponentially in their tail. The
ends of an interval keep their ratio to the rate from point to point. Past the last measured point, where the data
would have to speak about fewer than three effective errors (rule of 3, ISO/IEC 19795-1), only the fitted tail goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.runtime.card import Calibration, OperatingPoint

Interval = tuple[float, float]


@dataclass(frozen=True)
class CurvePoint:
    """A place on the curve; the intervals are None for a calibration without them."""

    threshold: float
    fmr: float
    fnmr: float
    fmr_interval: Interval | None
    fnmr_interval: Interval | None
    extrapolated: bool


class Curve:
    """One calibration's curve.

    Attributes:
        largest_fmr, smallest_fmr: what was measured.
        smallest_extrapolated_fmr: how far down the fitted tail goes; None without one.
        laxest, strictest: the thresholds of the first and the last measured point.
        end: that of the last point of the tail, or of the last measured one.
    """

    def __init__(self, calibration: Calibration) -> None:
        tail = calibration.tail.points if calibration.tail else ()
        self._points = _Points((*calibration.points, *tail))
        self.largest_fmr, self.smallest_fmr = calibration.points[0].fmr, calibration.points[-1].fmr
        self.smallest_extrapolated_fmr = tail[-1].fmr if tail else None
        self.laxest, self.strictest, self.end = self._points.laxest, calibration.points[-1].threshold, self._points.end

    def at_fmr(self, fmr: float, extrapolate: bool = False) -> CurvePoint | None:
        """None where nothing is known about the rate."""
        smallest = self.smallest_extrapolated_fmr if extrapolate else None
        if not (self.smallest_fmr if smallest is None else smallest) <= fmr <= self.largest_fmr:
            return None
        return self._point(self._points.threshold_at(fmr), fmr, fmr < self.smallest_fmr)

    def at_threshold(self, threshold: float, extrapolate: bool = False) -> CurvePoint | None:
        """None where nothing is known about the threshold."""
        if not self.laxest <= threshold <= (self.end if extrapolate else self.strictest):
            return None
        return self._point(threshold, float(self._points.fmrs_at(np.array(threshold))), threshold > self.strictest)

    def fmrs_at(self, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of any thresholds: 1 where they are laxer than all measured ones, the tail's last rate where stricter."""
        return self._points.fmrs_at(thresholds)

    def log_fmr_beyond(self, threshold: float) -> float:
        """log10 FMR at any threshold, in a straight line on from both ends of what is known: to compare two
        similarities by, not to tell anybody."""
        return self._points.log_fmr_beyond(threshold)

    def _point(self, threshold: float, fmr: float, extrapolated: bool) -> CurvePoint:
        fnmr = self._points.fnmr_at(threshold)
        intervals = self._points.intervals_at(fmr, fnmr)
        return CurvePoint(threshold, fmr, fnmr, *intervals, extrapolated)


class _Points:
    """Interpolation between points by rising threshold."""

    def __init__(self, points: Sequence[OperatingPoint]) -> None:
        self._log_fmr = np.log10([p.fmr for p in points])
        self._threshold = np.array([p.threshold for p in points])
        self._fnmr = np.array([p.fnmr for p in points])
        self.laxest, self.end = points[0].threshold, points[-1].threshold
        # A tail begins with points at the last counted threshold; what was counted there holds.
        self._rates_at, firsts = np.unique(self._threshold, return_index=True)
        self._log_rates = self._log_fmr[firsts]
        self._ratios = None
        if all(p.fmr_low is not None and p.fnmr_low is not None for p in points):
            ends = [(p.fmr_low, p.fmr_high, p.fnmr_low, p.fnmr_high) for p in points]
            rates = [(p.fmr, p.fmr, p.fnmr, p.fnmr) for p in points]
            # A rate of 0 has an upper end all the same.
            self._ratios = np.array(ends, float).T / np.maximum(np.array(rates).T, 1e-12)

    def threshold_at(self, fmr: float) -> float:
        return float(np.interp(-np.log10(fmr), -self._log_fmr, self._threshold))

    def fmrs_at(self, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
        rates: NDArray[np.float64] = 10 ** np.interp(thresholds, self._rates_at, self._log_rates, left=0.0)
        return rates

    def log_fmr_beyond(self, threshold: float) -> float:
        at, rates = self._rates_at, self._log_rates
        if threshold < at[0]:
            # As steep as the first tenfold.
            far = min(int(np.searchsorted(-rates, 1 - rates[0])), len(at) - 1)
            return float(rates[0] - _steepness(at[0], rates[0], at[far], rates[far]) * (threshold - at[0]))
        if threshold > at[-1]:
            near = max(int(np.searchsorted(-rates, -rates[-1] - 1)) - 1, 0)
            return float(rates[-1] - _steepness(at[near], rates[near], at[-1], rates[-1]) * (threshold - at[-1]))
        return float(np.interp(threshold, at, rates))

    def fnmr_at(self, threshold: float) -> float:
        return float(np.interp(threshold, self._threshold, self._fnmr))

    def intervals_at(self, fmr: float, fnmr: float) -> tuple[Interval | None, Interval | None]:
        if self._ratios is None:
            return None, None
        at = -np.log10(fmr)
        low, high, fnmr_low, fnmr_high = (float(np.interp(at, -self._log_fmr, row)) for row in self._ratios)
        fnmr = max(fnmr, 1e-12)
        return (low * fmr, min(high * fmr, 1.0)), (fnmr_low * fnmr, min(fnmr_high * fnmr, 1.0))


def _steepness(first: float, log_rate: float, last: float, log_last: float) -> float:
    """How much log10 FMR falls for each 1 of the threshold; above 0, so that no two similarities become equal."""
    return max((log_rate - log_last) / max(last - first, 1e-9), 1e-3)
