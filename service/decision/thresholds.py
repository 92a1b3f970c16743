"""From an error rate to a threshold and back, on the bundle's measured operating points.

Between two measured points the threshold is linear in log FMR: impostor scores fall off about exponentially in
their tail. Nothing is said beyond the last point on either side (rule of 3, ISO/IEC 19795-1).
"""

from dataclasses import dataclass

import numpy as np

from service.errors import InvalidRequest, UnsupportedErrorRate
from service.runtime.card import Calibration

DEFAULT_FMR = 1e-4
LISTED_FMRS = (1e-3, 1e-4, 1e-5, 1e-6)
UNCALIBRATED = (
    "This bundle has no calibration, so no error rate is known: give a raw threshold, or measure the bundle with "
    "`likeness evaluate lfw` and export it again with --calibration."
)


@dataclass(frozen=True)
class OperatingPoint:
    """The rule that was used: a match is ``similarity >= threshold``.

    Attributes:
        fmr, fnmr: the error rates to expect of it; None where the calibration cannot say.
        calibration_id: which measurement says so; None without a calibration.
    """

    threshold: float
    fmr: float | None
    fnmr: float | None
    calibration_id: str | None


class Thresholds:
    """Chooses operating points for one bundle."""

    def __init__(self, calibration: Calibration | None) -> None:
        self._calibration = calibration
        points = calibration.points if calibration else ()
        self._log_fmr = np.log10([p.fmr for p in points])
        self._threshold = np.array([p.threshold for p in points])
        self._fnmr = np.array([p.fnmr for p in points])
        self.largest_fmr = points[0].fmr if points else None
        self.smallest_fmr = points[-1].fmr if points else None

    def choose(self, fmr: float | None = None, threshold: float | None = None) -> OperatingPoint:
        """The operating point for a false match rate, or for a raw threshold; without either, FMR 1e-4.

        Raises:
            InvalidRequest: both were given, or a rate where the bundle has no calibration.
            UnsupportedErrorRate: the calibration data cannot support the rate; ``details`` has the supported range.
        """
        if fmr is not None and threshold is not None:
            raise InvalidRequest(f"Give fmr or threshold, not both (fmr={fmr:g}, threshold={threshold:g}).")
        if threshold is not None:
            if not -1 <= threshold <= 1:
                raise InvalidRequest(f"A threshold is a cosine, -1 to 1; {threshold:g} is none.")
            return self._at_threshold(threshold)
        return self._at_fmr(DEFAULT_FMR if fmr is None else fmr)

    def listed(self) -> list[OperatingPoint]:
        """The usual operating points that the calibration supports, strictest last."""
        if self._calibration is None:
            return []
        first, last = self._calibration.points[0].fmr, self._calibration.points[-1].fmr
        return [self._at_fmr(fmr) for fmr in LISTED_FMRS if last <= fmr <= first]

    def _at_fmr(self, fmr: float) -> OperatingPoint:
        if self._calibration is None:
            raise InvalidRequest(UNCALIBRATED)
        largest, smallest = self._calibration.points[0].fmr, self._calibration.points[-1].fmr
        if not smallest <= fmr <= largest:
            raise UnsupportedErrorRate(
                f"An FMR of {fmr:g} is outside what the calibration supports, {smallest:g} to {largest:g} "
                f"({self._calibration.impostor:,} impostor comparisons).",
                {"smallest_fmr": smallest, "largest_fmr": largest},
            )
        threshold = float(np.interp(-np.log10(fmr), -self._log_fmr, self._threshold))
        return OperatingPoint(threshold, fmr, self._fnmr_at(threshold), self._calibration.calibration_id)

    def _at_threshold(self, threshold: float) -> OperatingPoint:
        if self._calibration is None:
            return OperatingPoint(threshold, None, None, None)
        known = self._threshold[0] <= threshold <= self._threshold[-1]
        fmr = float(10 ** np.interp(threshold, self._threshold, self._log_fmr)) if known else None
        fnmr = self._fnmr_at(threshold) if known else None
        return OperatingPoint(threshold, fmr, fnmr, self._calibration.calibration_id)

    def _fnmr_at(self, threshold: float) -> float:
        return float(np.interp(threshold, self._threshold, self._fnmr))
