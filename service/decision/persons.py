"""The rates of comparisons with persons who have several photos, from those of comparisons with a single one.

A person stands by the mean of the photos. A stranger's similarity to a mean is somewhat higher than to a photo, as what
is only in one photo is averaged out of it: FMR(k, t) = FMR(1, t / stretch). A search of several persons is a comparison
with each; were these independent, a false positive identification would have the probability
FPIR = 1 − Π (1 − FMR(k)) over the persons searched (ISO/IEC 19795-1).

A calibration that has measured no means is taken for the worst: k photos are like k persons, or, where it has measured
what the most similar of several photos does, like as many as that says, and misses are no rarer than it says.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from service.decision.curve import Curve
from service.runtime.card import Calibration

# How many persons have so many photos.
Sizes = Mapping[int, int]
Floats = NDArray[np.float64]
# A threshold is found by dividing the range in which it lies so often into so many parts.
ROUNDS, PARTS = 5, 64
# A rate of 1 has no logarithm of its complement.
SURE = 1 - 1e-12


class PersonRates:
    """How several photos of a person change the rates of one calibration."""

    def __init__(self, calibration: Calibration) -> None:
        self._of_mean, self._best_of = calibration.of_mean, calibration.best_of

    def stretch(self, photos: Floats) -> Floats:
        """How many times as similar a stranger is to a mean of so many photos as to one."""
        if self._of_mean is None:
            return np.ones_like(photos)
        above = 1 + (photos - 1) * self._of_mean.stranger_likeness
        return np.sqrt(above / (1 + (photos - 1) * self._of_mean.photo_likeness))

    def chances(self, photos: Floats) -> Floats:
        """How many independent comparisons one with so many photos is like."""
        if self._of_mean is not None:
            return np.ones_like(photos)
        exponent = self._best_of.fmr_exponent if self._best_of else 1.0
        return np.asarray(photos**exponent, np.float64)

    def misses(self, photos: Floats) -> Floats:
        """The FNMR of so many photos, as a share of that of one."""
        if self._of_mean is not None:
            shares = np.array(self._of_mean.fnmr_shares)
            return np.asarray(shares[np.minimum(photos, len(shares)).astype(np.int64) - 1], np.float64)
        exponent = self._best_of.fnmr_exponent if self._best_of else 0.0
        return np.asarray(photos**-exponent, np.float64)


class Searched:
    """The persons of one search."""

    def __init__(self, calibration: Calibration, curve: Curve, sizes: Sizes) -> None:
        photos = np.array(list(sizes), np.float64)
        rates = PersonRates(calibration)
        self._curve = curve
        self._persons = np.array(list(sizes.values()), np.float64)
        self._stretch, self._comparisons = rates.stretch(photos), self._persons * rates.chances(photos)
        self._misses = rates.misses(photos)

    def fpir_at(self, threshold: float, factor: float = 1.0) -> float | None:
        """None where a rate that this follows from is unknown.

        Args:
            factor: how many times as high as measured every FMR is taken to be.
        """
        if len(self._persons) and not self._curve.laxest <= threshold / self._stretch.max():
            return None
        return float(self._fpirs(np.array([threshold]), factor)[0])

    def threshold_for(self, fpir: float, highest: float) -> float:
        """The lowest threshold with at most this FPIR, no lower than any that was measured; infinite where there is
        none up to ``highest``."""
        low, high = self._curve.laxest, highest
        ends = self._fpirs(np.array([low, high])) <= fpir
        if ends[0] or not ends[1]:
            return low if ends[0] else float("inf")
        for _ in range(ROUNDS):
            between = np.linspace(low, high, PARTS + 1)
            first = max(1, int(np.argmax(self._fpirs(between) <= fpir)))
            low, high = float(between[first - 1]), float(between[first])
        return high

    def share_missed(self) -> float | None:
        """The mean over persons of their FNMR, as a share of that of one photo; None where there is nobody."""
        persons = self._persons.sum()
        return float((self._persons * self._misses).sum() / persons) if persons else None

    def _fpirs(self, thresholds: Floats, factor: float = 1.0) -> Floats:
        rates = np.minimum(factor * self._curve.fmrs_at(thresholds[:, None] / self._stretch), SURE)
        fpirs: Floats = 0.0 - np.expm1((self._comparisons * np.log1p(-rates)).sum(axis=1))  # 0 for nobody, not -0
        return fpirs
