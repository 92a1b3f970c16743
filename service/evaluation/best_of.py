"""What it does to the error rates that the most similar of several enrolled photos of a person counts.

A stranger's search of a person with k photos has k chances, but photos of one person are alike: k^c independent ones,
0 ≤ c ≤ 1. Each person's false matches with single photos say how many to expect at a given c, so that persons who are
often taken for others weigh the same on both sides; c is where that meets the number of strangers counted.

The person himself is missed more rarely: FNMR(k) = FNMR k^(−g). FNMR(k) for the k photos drawn at random from all n
but the probe, b of which are below the threshold, is exactly C(b, k) / C(n, k) on average.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import gammaln

from service.evaluation.dyads import Floats, Integers
from service.evaluation.metrics import Scores
from service.evaluation.operating_points import person_tiles
from service.runtime.card import BestOf

# More photos of one person than this are not what galleries hold, and would outweigh all others.
MOST_PHOTOS = 10
SIZES = (2, 3, 5, 8)


def measure_best_of(
    embeddings: NDArray[np.float32], persons: Integers, thresholds: Scores, seed: int = 0
) -> BestOf | None:
    """Both exponents, over several thresholds; None where persons have too few photos to tell.

    Args:
        embeddings: (n, d) float32 of unit length.
        persons: (n,) the same number for photos of one person.
        thresholds: (k,) those that a search is likely to use.
    """
    order = np.random.default_rng(seed).permutation(len(persons))
    counts = np.unique(persons, return_counts=True)[1]
    ranks = np.empty(len(persons), np.int64)
    by_person = order[np.argsort(persons[order], kind="stable")]
    ranks[by_person] = np.arange(len(persons)) - np.repeat(np.cumsum(counts) - counts, counts)
    few = ranks < MOST_PHOTOS
    embeddings, persons = embeddings[few], persons[few]
    false_matches = _fmr_exponent(embeddings, persons, thresholds)
    if false_matches is None:
        return None
    # Where nobody is missed, nothing can be said, and several photos are taken to be no better than one.
    misses = _fnmr_exponent(embeddings, persons, thresholds) or 0.0
    return BestOf(fmr_exponent=false_matches, fnmr_exponent=misses)


def _fmr_exponent(embeddings: NDArray[np.float32], persons: Integers, thresholds: Scores) -> float | None:
    _, persons, photos = np.unique(persons, return_inverse=True, return_counts=True)
    single, searched = np.zeros((len(photos), len(thresholds))), np.zeros((len(photos), len(thresholds)))
    for tile in person_tiles(embeddings, persons):
        close = tile.impostor & (tile.scores >= thresholds[0])
        rows, columns = np.nonzero(close)
        scores = tile.scores[rows, columns]
        first, second = tile.rows[rows], tile.columns[columns]
        for k, threshold in enumerate(thresholds):
            above = scores >= threshold
            for enrolled, probe in ((first[above], second[above]), (second[above], first[above])):
                np.add.at(single[:, k], persons[enrolled], 1)
                # A probe that is close to several photos of a person counts once.
                pairs = np.unique(persons[enrolled] * len(persons) + probe)
                np.add.at(searched[:, k], pairs // len(persons), 1)
    several = photos > 1
    if not searched[several].any():
        return None

    def missing(c: float) -> float:
        # One photo's false matches are single / photos.
        expected = single[several] * photos[several, None] ** (c - 1.0)
        return float(((expected - searched[several]) / photos[several, None]).sum())

    return float(np.clip(brentq(missing, -1, 2), 0, 1)) if missing(-1) * missing(2) < 0 else None


def _fnmr_exponent(embeddings: NDArray[np.float32], persons: Integers, thresholds: Scores) -> float | None:
    order = np.argsort(persons, kind="stable")
    _, starts, counts = np.unique(persons[order], return_index=True, return_counts=True)
    sums = np.zeros((len(SIZES), 2, len(thresholds)))  # missed with k photos, and with one, of the same persons
    for start, count in zip(starts, counts, strict=True):
        own = embeddings[order[start : start + count]]
        scores = own @ own.T
        np.fill_diagonal(scores, 2)
        below = (scores[:, :, None] < thresholds).sum(axis=1)
        for k, size in enumerate(SIZES):
            if count > size:
                sums[k, 0] += _chance(below, count - 1, size).mean(axis=0)
                sums[k, 1] += (below / (count - 1)).mean(axis=0)
    missed = sums.sum(axis=2)
    sure = missed[:, 0] > 0
    if not sure.any():
        return None
    logs, weights = np.log(np.array(SIZES))[sure], missed[sure, 0]
    falls = np.log(missed[sure, 1] / missed[sure, 0])
    return max(0.0, float((weights * logs * falls).sum() / (weights * logs**2).sum()))


def _chance(below: Integers, photos: int, size: int) -> Floats:
    """C(below, size) / C(photos, size)."""
    enough = np.maximum(below, size)
    logs = gammaln(enough + 1) - gammaln(enough - size + 1) - gammaln(photos + 1) + gammaln(photos - size + 1)
    return np.where(below >= size, np.exp(logs), 0.0)
