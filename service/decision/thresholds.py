"""From an error rate to a threshold and back, on the curve that the bundle's calibration measured."""

from dataclasses import dataclass

from service.decision.curve import Curve, CurvePoint, Interval
from service.errors import InvalidRequest, UnsupportedErrorRate
from service.runtime.card import Calibration

DEFAULT_FMR = 1e-4
LISTED_FMRS = (1e-3, 1e-4, 1e-5, 1e-6)
UNCALIBRATED = (
    "This bundle has no calibration, so no error rate is known: give a raw threshold, or measure the bundle with "
    "`likeness calibrate` and export it again with --calibration."
)


@dataclass(frozen=True)
class OperatingPoint:
    """The rule that was used: a match is ``similarity >= threshold``.

    Attributes:
        fmr, fnmr: the error rates to expect of it; None where the calibration cannot say.
        calibration_id: which measurement says so; None without a calibration.
        fmr_interval, fnmr_interval: the ends of their 95 % intervals; None where the calibration has none.
        extrapolated: the rates were not measured, but follow from the tail that was fitted to what was.
    """

    threshold: float
    fmr: float | None
    fnmr: float | None
    calibration_id: str | None
    fmr_interval: Interval | None = None
    fnmr_interval: Interval | None = None
    extrapolated: bool = False


class Thresholds:
    """Chooses operating points for one bundle. ``curve`` is None without a calibration."""

    def __init__(self, calibration: Calibration | None) -> None:
        self.calibration = calibration
        self.curve = Curve(calibration) if calibration else None
        self.largest_fmr = self.curve.largest_fmr if self.curve else None
        self.smallest_fmr = self.curve.smallest_fmr if self.curve else None

    def choose(
        self, fmr: float | None = None, threshold: float | None = None, extrapolate: bool = False
    ) -> OperatingPoint:
        """The operating point for a false match rate, or for a raw threshold; without either, FMR 1e-4.

        Args:
            extrapolate: answer, from the fitted tail, below the rates that the calibration data can speak about.

        Raises:
            InvalidRequest: both were given, or a rate where the bundle has no calibration.
            UnsupportedErrorRate: the calibration cannot support the rate; ``details`` has the supported range.
        """
        if fmr is not None and threshold is not None:
            raise InvalidRequest(f"Give fmr or threshold, not both (fmr={fmr:g}, threshold={threshold:g}).")
        if threshold is not None:
            if not -1 <= threshold <= 1:
                raise InvalidRequest(f"A threshold is a cosine, -1 to 1; {threshold:g} is none.")
            return self._at_threshold(threshold, extrapolate)
        return self._at_fmr(DEFAULT_FMR if fmr is None else fmr, extrapolate)

    def listed(self) -> list[OperatingPoint]:
        """The usual operating points that the calibration supports, strictest last."""
        if self.curve is None:
            return []
        first, last = self.curve.largest_fmr, self.curve.smallest_fmr
        return [self._at_fmr(fmr, False) for fmr in LISTED_FMRS if last <= fmr <= first]

    def _at_fmr(self, fmr: float, extrapolate: bool) -> OperatingPoint:
        if self.curve is None:
            raise InvalidRequest(UNCALIBRATED)
        point = self.curve.at_fmr(fmr, extrapolate)
        if point is None:
            raise self._unsupported(fmr, extrapolate)
        return self._named(point)

    def _at_threshold(self, threshold: float, extrapolate: bool) -> OperatingPoint:
        point = self.curve.at_threshold(threshold, extrapolate) if self.curve else None
        if point is None:
            known_as = self.calibration.calibration_id if self.calibration else None
            return OperatingPoint(threshold, None, None, known_as)
        return self._named(point)

    def _named(self, point: CurvePoint) -> OperatingPoint:
        assert self.calibration is not None
        return OperatingPoint(
            point.threshold,
            point.fmr,
            point.fnmr,
            self.calibration.calibration_id,
            point.fmr_interval,
            point.fnmr_interval,
            point.extrapolated,
        )

    def _unsupported(self, fmr: float, extrapolate: bool) -> UnsupportedErrorRate:
        assert self.calibration is not None
        assert self.curve is not None
        smallest, largest = self.curve.smallest_fmr, self.curve.largest_fmr
        tail = self.curve.smallest_extrapolated_fmr
        details = {"smallest_fmr": smallest, "largest_fmr": largest}
        worth = self.calibration.effective_impostor
        counted = f"{self.calibration.impostor:,} impostor comparisons" + (
            f", worth {worth:,.0f} independent ones" if worth else ""
        )
        hint = ""
        if tail is not None:
            details["smallest_extrapolated_fmr"] = tail
            if extrapolate:
                smallest = tail
            elif tail <= fmr < smallest:
                hint = f" extrapolate=true answers down to {tail:g}, from a fitted tail."
        return UnsupportedErrorRate(
            f"An FMR of {fmr:g} is outside what the calibration supports, {smallest:g} to {largest:g} "
            f"({counted}).{hint}",
            details,
        )
