"""How certain a figure is: intervals from persons drawn again.

Photos of one person are alike, so it is persons that are drawn with replacement, each with all of its photos, not
photos or pairs: the subsets bootstrap of Bolle, Ratha, Pankanti, "Error analysis of pattern recognition systems: the
subsets bootstrap", Computer Vision and Image Understanding 93(1), 2004. An impostor pair depends on two persons: it
comes in as often as the product of their draws says, and copies of one person are not compared with each other. That
is the vertex bootstrap of Snijders, Borgatti, "Non-parametric standard errors and tests for network statistics",
Connections 22(2), 1999; Fogliato, Patil, Perona, arXiv 2306.01198, compare both and others on face verification.

The ends of an interval are percentiles. Where every outcome is the same it has no width, however few they are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.evaluation.comparisons import Comparisons, Integers

CONFIDENCE = 0.95
RESAMPLES = 2000

# Numbers held at once while drawing: 32 MB of float64.
_CHUNK = 2**22


@dataclass(frozen=True)
class TarAtFar:
    """The highest TAR at a FAR of at most ``far``, and the ends of its 95 % interval; all 0..1."""

    far: float
    tar: float
    low: float
    high: float


def interval_over_persons(outcomes: NDArray[np.bool_], persons: Integers, seed: int = 0) -> NDArray[np.float64]:
    """(2, k) lower and upper end of a 95 % interval for the mean of each column of ``outcomes``.

    For searches: the gallery stays as it is.

    Args:
        outcomes: (n, k) what became of each search, in k ways of looking at it.
        persons: (n,) the same number for photos of the same person.
        seed: of the samples; all columns share them.
    """
    if outcomes.ndim != 2 or not outcomes.size or persons.shape != outcomes.shape[:1]:
        raise ValueError(f"outcomes must be (n, k) and persons (n,), not {outcomes.shape} and {persons.shape}")
    _, numbers, photos = np.unique(persons, return_inverse=True, return_counts=True)
    found = np.zeros((len(photos), outcomes.shape[1]))
    np.add.at(found, numbers, outcomes)
    drawn = _draws(len(photos), seed)
    return _ends((drawn @ found) / (drawn @ photos)[:, None])


def tar_at_fars(comparisons: Comparisons, fars: Sequence[float], seed: int = 0) -> list[TarAtFar]:
    """TAR at each FAR, as ``metrics.tar_at_far`` has it, with an interval over the persons.

    In each sample the threshold is chosen anew, so the interval also says how well the data determine that. A sample
    without a genuine or without an impostor pair is left out.

    Args:
        fars: each 0..1.
        seed: of the samples; all rates share them.
    """
    persons = np.concatenate([comparisons.genuine_persons, comparisons.impostor_persons.ravel()])
    known, numbers = np.unique(persons, return_inverse=True)
    of_genuine, of_impostors = np.split(numbers, [comparisons.genuine.size])
    first, second = of_impostors.reshape(2, -1)
    once = np.ones((1, len(known)))
    drawn = np.concatenate([once, _draws(len(known), seed)])
    limits = _limits(comparisons, (first, second), drawn, np.asarray(fars))
    tars = _accepted(comparisons.genuine, of_genuine, drawn, limits)
    ends = _ends(tars[1:])
    return [
        TarAtFar(far, *map(float, figures))
        for far, *figures in zip(fars, tars[0].tolist(), *ends.tolist(), strict=True)
    ]


def _limits(
    comparisons: Comparisons, persons: tuple[Integers, Integers], drawn: NDArray[np.float64], fars: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(s, f) for each sample and rate the highest impostor score that may not be accepted; ``-inf`` where all may.

    NaN in a sample without impostors.
    """
    order = np.argsort(-comparisons.impostor, kind="stable")
    scores = np.append(comparisons.impostor[order], -np.inf)
    stand_for = comparisons.stand_for[order]
    first, second = (numbers[order] for numbers in persons)
    limits = np.empty((len(drawn), len(fars)))
    for samples in _chunks(len(drawn), order.size):
        pairs = drawn[samples][:, first]
        pairs *= drawn[samples][:, second]
        pairs *= stand_for
        accepted = np.cumsum(pairs, axis=1)
        for row, sums in zip(range(samples.start, samples.stop), accepted, strict=True):
            # Divided, not multiplied, so that three of thirty are a rate of 0.1.
            limits[row] = scores[np.searchsorted(sums / sums[-1], fars, "right")] if sums[-1] else np.nan
    return limits


def _accepted(
    genuine: NDArray[np.float64], persons: Integers, drawn: NDArray[np.float64], limits: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(s, f) the share of genuine scores above each limit; NaN in a sample without genuine ones or a limit."""
    # Scores between the same two limits are the same to all samples: so many pairs become few sums for each person.
    distinct = np.unique(limits[~np.isnan(limits)])
    above = np.searchsorted(distinct, genuine, "left")  # how many limits each score is above
    groups, counts = np.unique(above * drawn.shape[1] + persons, return_counts=True)
    above, persons = np.divmod(groups, drawn.shape[1])
    rejected = np.searchsorted(above, np.searchsorted(distinct, limits), "right")  # (s, f) so many of the groups
    shares = np.empty_like(limits)
    for samples in _chunks(len(drawn), counts.size):
        pairs = drawn[samples][:, persons] * counts
        sums = np.concatenate([np.zeros((len(pairs), 1)), np.cumsum(pairs, axis=1)], axis=1)
        total = np.where(sums[:, -1:] > 0, sums[:, -1:], np.nan)
        shares[samples] = (total - np.take_along_axis(sums, rejected[samples], axis=1)) / total
    return np.where(np.isnan(limits), np.nan, shares)


def _draws(persons: int, seed: int) -> NDArray[np.float64]:
    """(RESAMPLES, persons) how often each person is drawn in each sample."""
    drawn = np.random.default_rng(seed).multinomial(persons, np.full(persons, 1 / persons), RESAMPLES)
    return drawn.astype(np.float64)


def _ends(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, k) percentiles of the columns, NaN left out."""
    outside = (1 - CONFIDENCE) / 2
    ends: NDArray[np.float64] = np.nanquantile(samples, [outside, 1 - outside], axis=0)
    return ends


def _chunks(samples: int, width: int) -> Iterator[slice]:
    size = max(1, _CHUNK // max(width, 1))
    return (slice(start, min(start + size, samples)) for start in range(0, samples, size))
