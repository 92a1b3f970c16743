"""Error rates of all pairs of photos in which every person counts alike, and how certain they are.

One man's five hundred photos are not five hundred times as good to know as another's one: a single wrong label among
them is hundreds of wrong pairs. So a false match rate is the mean over all pairs of persons (dyads) a < b of x_ab, the
share of the comparisons of a's photos with b's that match; a false non-match rate the mean over persons of the share
of their pairs that do not.

Dyads with a person in common are not independent. With residuals e_ab = x_ab − R the variance of R over D dyads is

    V = (Σ_a e_a² − Σ_{a<b} e_ab²) / D²,    e_a = Σ_b e_ab,

all products of residuals of dyads that have a person in common, each once: the dyadic cluster-robust estimator of
Fafchamps, Gubert, "The formation of risk sharing networks", Journal of Development Economics 83(2), 2007, and Aronow,
Samii, Assenova, "Cluster-robust variance estimation for dyadic data", Political Analysis 23(4), 2015. It needs one
pass over the pairs and no resampling.

V says how many independent comparisons the data are worth, R (1 − R) / V, and the interval is Clopper and Pearson's
for so many: Korn, Graubard, "Confidence intervals for proportions with small expected number of positive counts
estimated from survey data", Survey Methodology 24(2), 1998.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from service.evaluation.metrics import Scores
from service.evaluation.operating_points import person_tiles

CONFIDENCE = 0.95
# Thresholds are multiples of this, which float32 holds exactly.
STEP = 2.0**-17
Integers = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rates:
    """An error rate at each of k thresholds; arrays (k,) float64.

    Attributes:
        rate: 0..1.
        low, high: the ends of its 95 % interval.
        effective: how many independent comparisons would determine it as well as these do.
    """

    rate: Floats
    low: Floats
    high: Floats
    effective: Floats


def thresholds_at(embeddings: NDArray[np.float32], persons: Integers, fmrs: Floats) -> Floats:
    """(k,) for each rate the lowest threshold, a multiple of ``STEP``, at which the FMR is no higher."""
    _, persons, photos = np.unique(persons, return_inverse=True, return_counts=True)
    weights = 1 / photos[persons]
    places = round(1 / STEP)
    counts = np.zeros(2 * places + 2)
    for tile in person_tiles(embeddings, persons):
        step = np.floor(tile.scores.astype(np.float64) / STEP).astype(np.int64) + places
        of_pair = np.where(tile.impostor, np.outer(weights[tile.rows], weights[tile.columns]), 0)
        counts += np.bincount(np.clip(step, 0, len(counts) - 1).ravel(), of_pair.ravel(), len(counts))
    rate = np.cumsum(counts[::-1])[::-1] / (len(photos) * (len(photos) - 1) / 2)  # at or above each step
    steps = np.searchsorted(-rate, -fmrs, "left")
    thresholds: Floats = np.minimum((steps - places) * STEP, 1.0)
    return thresholds


def impostor_rates(embeddings: NDArray[np.float32], persons: Integers, thresholds: Scores) -> Rates:
    """FMR: the mean over dyads of the share of their pairs with a score at or above each threshold.

    Args:
        embeddings: (n, d) float32 of unit length.
        persons: (n,) the same number for photos of one person.
        thresholds: (k,) ascending.
    """
    _, persons, photos = np.unique(persons, return_inverse=True, return_counts=True)
    people, steps = len(photos), len(thresholds)
    errors = np.zeros((people, steps))  # of each person, in the step in which the score lies
    squares = np.zeros(steps)
    for tile in person_tiles(embeddings, persons):
        rows, columns = np.nonzero(tile.impostor & (tile.scores >= thresholds[0]))
        scores = tile.scores[rows, columns]
        step = np.searchsorted(thresholds, scores, "right") - 1
        first, second = persons[tile.rows[rows]], persons[tile.columns[columns]]
        weights = 1 / (photos[first] * photos[second])
        into = np.concatenate([first, second]) * steps + np.tile(step, 2)
        np.add.at(errors.reshape(-1), into, np.tile(weights, 2))
        # A dyad lies in one tile. Its r-th highest score raises the square of its share by (r² − (r − 1)²) weight².
        squares += np.bincount(step, (2 * _places(first * people + second, scores) - 1) * weights**2, steps)
    errors, squares = (np.cumsum(part[..., ::-1], axis=-1)[..., ::-1] for part in (errors, squares))
    dyads = people * (people - 1) / 2
    rate = errors.sum(axis=0) / 2 / dyads
    by_person = ((errors - rate * (people - 1)) ** 2).sum(axis=0)
    by_dyad = squares - dyads * rate**2
    return with_interval(rate, (by_person - by_dyad) / dyads**2, dyads)


def genuine_rates(embeddings: NDArray[np.float32], persons: Integers, thresholds: Scores) -> Rates:
    """FNMR: the mean over persons with two photos or more of the share of their pairs below each threshold.

    Persons are independent of each other, so the variance is that of a mean of as many values.
    """
    order = np.argsort(persons, kind="stable")
    _, starts, photos = np.unique(persons[order], return_index=True, return_counts=True)
    shares = []
    for start, count in zip(starts, photos, strict=True):
        if count > 1:
            own = embeddings[order[start : start + count]]
            scores = np.sort((own @ own.T)[np.triu_indices(count, 1)])
            shares.append(np.searchsorted(scores, thresholds, "left") / len(scores))
    table = np.array(shares)
    rate = table.mean(axis=0)
    variance = table.var(axis=0, ddof=1) / len(table) if len(table) > 1 else np.zeros(len(thresholds))
    return with_interval(rate, variance, len(table))


def with_interval(rate: Floats, variance: Floats, comparisons: float) -> Rates:
    """Korn and Graubard's interval.

    Args:
        rate: (k,) 0..1.
        variance: (k,) of the rates; where it is less than that of ``comparisons`` independent ones, that is taken.
        comparisons: how many dyads or persons there are: what several photos of them add is not counted on.
    """
    variance = np.maximum(variance, rate * (1 - rate) / comparisons)
    sure = variance <= 0  # none or all are errors
    effective = np.where(sure, comparisons, rate * (1 - rate) / np.where(sure, 1, variance))
    outside = (1 - CONFIDENCE) / 2
    found = rate * effective
    missing = effective - found
    low = np.where(found > 0, betaincinv(np.maximum(found, 1e-300), missing + 1, outside), 0.0)
    high = np.where(missing > 0, betaincinv(found + 1, np.maximum(missing, 1e-300), 1 - outside), 1.0)
    return Rates(rate, low, high, effective)


def _places(groups: Integers, scores: Scores) -> Integers:
    """(m,) the place of each score in its group, from 1, the highest first."""
    order = np.lexsort((-scores, groups))
    ordered = groups[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    places = np.empty(len(groups), np.int64)
    places[order] = np.arange(len(groups)) - np.repeat(starts, np.diff(np.append(starts, len(groups)))) + 1
    return places
