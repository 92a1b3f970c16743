"""Figures of merit of a verification system, from similarity scores alone; numpy and nothing else.

A score is a float, higher for more alike; a comparison is accepted when ``score >= threshold``, everywhere.
A comparison that could not be made, because a photo had no face, has the score ``-inf``: it counts, and no
threshold accepts it. With such scores the rates are FAR and TAR in the sense of ISO/IEC 19795-1 (failures to
acquire included); without them they are FMR and TMR (comparisons only).

Where any value between two scores would do, the threshold is the smallest float above the lower one. It then
depends on no score that it was not chosen on.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidRequest

Scores = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Roc:
    """Receiver operating characteristic; three float64 arrays of one length.

    ``thresholds`` are the distinct finite scores, descending; ``fmr`` and ``tmr``, 0..1 and never falling,
    are the shares of impostor and genuine scores at or above each. The ends (0, 0) and (1, 1) are not listed.
    """

    thresholds: NDArray[np.float64]
    fmr: NDArray[np.float64]
    tmr: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Verification accuracy where every fold is tested at a threshold chosen on the others.

    ``folds`` (k,) int64 are the fold numbers, ascending; ``accuracy`` (k,) 0..1 and ``thresholds`` (k,)
    belong to them. ``scores`` (n,) float64 are those that each pair was tested with; ``accepted`` and ``correct`` (n,)
    bool say what its fold's threshold made of it.
    """

    folds: NDArray[np.int64]
    accuracy: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    scores: NDArray[np.float64]
    accepted: NDArray[np.bool_]
    correct: NDArray[np.bool_]


def roc(genuine: Scores, impostor: Scores, stand_for: Scores | None = None) -> Roc:
    """Both error rates at every threshold that makes a difference (ISO/IEC 19795-1).

    Args:
        genuine: (g,) scores of two photos of one person, ``-inf`` where they could not be compared.
        impostor: (i,) the same for photos of different persons.
        stand_for: (i,) how many impostors each stands for, if not for one.
    """
    ascending = _sorted(genuine, "genuine"), _sorted(impostor, "impostor")
    thresholds = np.unique(np.concatenate(ascending))[::-1]
    thresholds = thresholds[np.isfinite(thresholds)]
    weights = None if stand_for is None else stand_for[np.argsort(impostor)]
    return Roc(
        thresholds,
        _share_at_or_above(ascending[1], thresholds, weights),
        _share_at_or_above(ascending[0], thresholds, None),
    )


def tar_at_far(genuine: Scores, impostor: Scores, far: float) -> float:
    """The highest TAR, 0..1, over all thresholds whose measured FAR is at most ``far``, 0..1.

    ``far`` permits m of the n impostors, m the largest integer with m / n <= far. Accepted are the genuine
    scores strictly above the (m + 1)-th highest impostor: impostors tied with it come in all or not at all.
    """
    genuine, impostor = _sorted(genuine, "genuine"), _sorted(impostor, "impostor")
    permitted = most_errors(far, impostor.size)
    limit = impostor[-1 - permitted] if permitted < impostor.size else -np.inf
    return float(np.mean(genuine > limit))


def equal_error_rate(genuine: Scores, impostor: Scores, stand_for: Scores | None = None) -> float:
    """Where FMR equals FNMR, 0..1, on the straight lines that join the points of the ROC and its two ends."""
    curve = roc(genuine, impostor, stand_for)
    fmr = np.concatenate([[0.0], curve.fmr, [1.0]])
    gap = fmr - np.concatenate([[1.0], 1 - curve.tmr, [0.0]])  # rises from -1 to 1
    after = int(np.argmax(gap >= 0))
    before = after - 1
    way = -gap[before] / (gap[after] - gap[before])
    return float(fmr[before] + way * (fmr[after] - fmr[before]))


def cross_validated_accuracy(
    scores: Scores, labels: NDArray[np.bool_], folds: NDArray[np.integer[Any]], detected: NDArray[np.bool_]
) -> CrossValidation:
    """Accuracy per fold by LFW's View 2 (Huang et al. 2007): test a fold, choose on all others.

    A pair without a face in both photos is an error in its fold, whatever its label: nothing was compared. It
    takes no part in choosing a threshold, since no threshold can mend it; its score is not looked at.
    Among thresholds that are right equally often, the lowest is taken, i.e. the one that accepts most. When
    accepting everything is best, the threshold is the lowest score there is.

    With one fold only (View 1) the threshold is chosen on that fold itself, and the accuracy is optimistic.

    Args:
        scores: (n,) similarity of each pair; or (k, n), one row for each fold, ascending, where what is learned from
            the other folds is more than the threshold.
        labels: (n,) True for a genuine pair.
        folds: (n,) the fold of each pair.
        detected: (n,) True where both photos have a face.
    """
    numbers = np.unique(folds).astype(np.int64)
    given = np.asarray(scores, np.float64)
    of_fold = given if given.ndim == 2 else np.broadcast_to(given, (len(numbers), *given.shape))
    if not labels.shape == folds.shape == detected.shape == of_fold.shape[1:] or len(of_fold) != len(numbers):
        shapes = given.shape, labels.shape, folds.shape, detected.shape
        raise ValueError(f"scores, labels, folds and detected must have one length, not shapes {shapes}")
    if not np.isfinite(of_fold[:, detected]).all():
        raise ValueError("the score of a detected pair must be finite")
    thresholds = np.empty(len(numbers))
    accepted = np.zeros(len(folds), np.bool_)
    for k, (number, own) in enumerate(zip(numbers, of_fold, strict=True)):
        test = folds == number
        train = detected & (~test if len(numbers) > 1 else test)
        if not train.any():
            raise InvalidRequest(
                f"fold {number}: no pair to choose its threshold on has a face in both photos; "
                "check that these are the photos of the protocol and that detection works"
            )
        thresholds[k] = _most_accurate(own[train], labels[train], lowest=float(own[detected].min()))
        accepted[test] = detected[test] & (own[test] >= thresholds[k])
    correct = detected & (accepted == labels)
    accuracy = np.array([correct[folds == number].mean() for number in numbers])
    tested: NDArray[np.float64] = of_fold[np.searchsorted(numbers, folds), np.arange(len(folds))]
    return CrossValidation(numbers, accuracy, thresholds, tested, accepted, correct)


def most_errors(rate: float, total: int) -> int:
    """The largest count with count / total <= rate, for a rate of 0..1 among ``total`` comparisons."""
    if not 0 <= rate <= 1:
        raise ValueError(f"an error rate lies between 0 and 1, not at {rate}")
    count = min(int(rate * total) + 1, total)  # the product alone may miss by one: 0.29 × 100 = 28.999…
    while count / total > rate:
        count -= 1
    return count


def _sorted(scores: Scores, kind: str) -> NDArray[np.float64]:
    ascending = np.sort(np.asarray(scores, np.float64))
    if ascending.ndim != 1 or not ascending.size:
        raise ValueError(f"{kind} scores must be (n,) with n at least 1, not {ascending.shape}")
    if np.isnan(ascending[-1]) or ascending[-1] == np.inf:
        raise ValueError(f"a {kind} score is {ascending[-1]}; a score is finite, or -inf when not comparable")
    return ascending


def _share_at_or_above(
    ascending: NDArray[np.float64], thresholds: NDArray[np.float64], weights: Scores | None
) -> NDArray[np.float64]:
    below = np.concatenate([[0.0], np.cumsum(np.ones_like(ascending) if weights is None else weights)])
    shares: NDArray[np.float64] = (below[-1] - below[np.searchsorted(ascending, thresholds, "left")]) / below[-1]
    return shares


def _most_accurate(scores: NDArray[np.float64], labels: NDArray[np.bool_], lowest: float) -> float:
    genuine, impostor = np.sort(scores[labels]), np.sort(scores[~labels])
    rejected_up_to = np.unique(scores)
    accepts = genuine.size - np.searchsorted(genuine, rejected_up_to, "right")
    right = np.concatenate([[genuine.size], accepts + np.searchsorted(impostor, rejected_up_to, "right")])
    best = int(np.argmax(right))
    return float(np.nextafter(rejected_up_to[best - 1], np.inf)) if best else lowest
