"""The generalised Pareto distribution of the highest impostor scores: rates below what can be counted.

Above a high enough threshold u the excess over it follows nearly

    P(s ≥ u + y | s ≥ u) = (1 + ξ y / σ)^(−1/ξ)

(Pickands, Annals of Statistics 3(1), 1975). ξ and σ are found by probability-weighted moments: Hosking, Wallis,
"Parameter and quantile estimation for the generalized Pareto distribution", Technometrics 29(3), 1987, where the shape
is k = −ξ. They have a closed form, and hold for ξ < 0.5; cosines end at 1, so theirs is below 0 or near it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.evaluation.dyads import CONFIDENCE, Integers

Floats = NDArray[np.float64]

RESAMPLES = 500
# Below this the tail is an exponential one, to which it tends.
FLAT = 1e-6
_CHUNK = 2**21


@dataclass(frozen=True, eq=False)
class Exceedances:
    """All impostor pairs with a score at or above ``threshold``.

    Attributes:
        scores: (m,).
        persons: (2, m) the persons of each, numbers from 0.
        weights: (m,) its share in the comparisons of the two persons.
        people: how many persons there are.
    """

    threshold: float
    scores: Floats
    persons: Integers
    weights: Floats
    people: int


@dataclass(frozen=True, eq=False)
class TailFit:
    """``fmr``, ``shape`` ξ and ``scale`` σ, each (1 + s,): from all persons, then from s draws of them."""

    threshold: float
    exceedances: int
    fmr: Floats
    shape: Floats
    scale: Floats

    def threshold_at(self, fmr: float) -> float:
        """The score at and above which the fit to all persons puts this share of impostors."""
        return float(self.threshold + self.scale[0] * _excess(self.fmr[0] / fmr, self.shape[0]))

    def interval_at(self, threshold: float) -> tuple[float, float]:
        """The ends of a 95 % interval for the FMR at a threshold: percentiles of the draws."""
        rates = self.fmr[1:] * survival((threshold - self.threshold) / self.scale[1:], self.shape[1:])
        outside = (1 - CONFIDENCE) / 2
        low, high = np.quantile(rates, [outside, 1 - outside])
        return float(low), float(high)


def fit_tail(exceedances: Exceedances, seed: int = 0) -> TailFit:
    """Fit to all persons, and to persons drawn again with replacement, as in ``bootstrap``: a pair comes in as often
    as the product of its persons' draws says."""
    people = exceedances.people
    order = np.argsort(exceedances.scores)
    excess = exceedances.scores[order] - exceedances.threshold
    first, second = exceedances.persons[:, order]
    rng = np.random.default_rng(seed)
    parts = []
    for chunk in range(0, 1 + RESAMPLES, size := max(1, _CHUNK // max(len(excess), people))):
        drawn = rng.multinomial(people, np.full(people, 1 / people), min(size, 1 + RESAMPLES - chunk)).astype(float)
        if chunk == 0:
            drawn[0] = 1
        weights = drawn[:, first] * drawn[:, second] * exceedances.weights[order]
        dyads = (people**2 - (drawn**2).sum(axis=1)) / 2  # copies of one person are no impostors
        parts.append((weights.sum(axis=1) / dyads, *_moments(excess, weights)))
    fmr, shape, scale = (np.concatenate(part) for part in zip(*parts, strict=True))
    return TailFit(exceedances.threshold, len(excess), fmr, shape, scale)


def survival(y: Floats, shape: Floats) -> Floats:
    """(1 + ξ y)^(−1/ξ), 0 beyond the end that a distribution with ξ < 0 has."""
    flat = np.abs(shape) < FLAT
    xi = np.where(flat, 1.0, shape)
    inside = np.maximum(1 + xi * y, 0)
    with np.errstate(divide="ignore"):
        return np.where(flat, np.exp(-y), inside ** (-1 / xi))


def _excess(odds: float, shape: float) -> float:
    """y with survival(y) = 1 / odds."""
    return float(np.log(odds)) if abs(shape) < FLAT else float((odds**shape - 1) / shape)


def _moments(excess: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """(s,) shapes and scales of ascending excesses (m,) that come in so often (s, m).

    With a_0 = E[y] and a_1 = E[y (1 − F(y))]: σ = 2 a_0 a_1 / (a_0 − 2 a_1), ξ = 2 − a_0 / (a_0 − 2 a_1).
    """
    total = weights.sum(axis=1, keepdims=True)
    above = (np.cumsum(weights[:, ::-1], axis=1)[:, ::-1] - weights / 2) / total  # 1 − F, in the middle of the step
    mean = (weights @ excess) / total[:, 0]
    upper = ((weights * above) @ excess) / total[:, 0]
    gap = mean - 2 * upper
    return 2 - mean / gap, 2 * mean * upper / gap
