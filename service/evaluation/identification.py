"""Figures of merit of an identification system, from what its searches returned; numpy and nothing else.

A search compares a probe with a gallery of enrolled persons and returns the most similar ones, best first. It is
mated where the probe's person is enrolled, non-mated where not. A search that could not be made, because the photo
had no face, counts like one that returned nothing; so does a mated search whose mate could not be enrolled.

Sources: ISO/IEC 19795-1:2021 (terms); Grother, Ngan, Hanaoka, "Face Recognition Vendor Test (FRVT) Part 2:
Identification", NISTIR 8271, 2019 (FNIR and FPIR at a threshold); Phillips, Moon, Rizvi, Rauss, "The FERET
Evaluation Methodology for Face-Recognition Algorithms", IEEE TPAMI 22(10), 2000 (cumulative match).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.evaluation.metrics import Scores, most_errors

Integers = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class OpenSetPoint:
    """The threshold that keeps the measured FPIR at or below ``fpir``, and the FNIR that it costs, both 0..1."""

    fpir: float
    threshold: float
    fnir: float
    false_positives: int
    false_negatives: int


def found_within(ranks: Integers, depth: int) -> NDArray[np.bool_]:
    """(n, depth) bool: is the mate among the first 1, 2, …, ``depth`` candidates? Column means are the CMC.

    The cumulative match characteristic (Phillips et al. 2000) at rank k is the share of mated searches
    of a closed set whose mate is among the first k candidates.

    Args:
        ranks: (n,) the mate's place among the candidates, from 1; 0 where it is not among them.
        depth: the last rank asked for, at least 1; candidates beyond it make no difference.
    """
    if ranks.ndim != 1 or not ranks.size or ranks.min() < 0 or depth < 1:
        raise ValueError(f"ranks must be (n,), n at least 1, from 0 up, and depth at least 1: {ranks.shape}, {depth}")
    first = np.where(ranks == 0, np.iinfo(np.int64).max, ranks)
    return first[:, None] <= np.arange(1, depth + 1)


def fnir_at_fpir(mated: Scores, non_mated: Scores, fpir: float) -> OpenSetPoint:
    """The false negative identification rate at the threshold for a false positive identification rate.

    FPIR(t) is the share of non-mated searches that return any candidate at or above t; FNIR(1, t) the share of mated
    searches whose mate is not at rank 1 or is below t (NISTIR 8271; ISO/IEC 19795-1). ``fpir`` permits m of n
    non-mated searches, m the largest integer with m / n <= fpir; t is the smallest float64 above the (m + 1)-th
    highest of their scores, so searches tied with it come in all or not at all; the lowest float there is where that
    one is ``-inf`` or all are permitted. 1 − FNIR is the detection and identification rate.

    Args:
        mated: (g,) similarity of the first candidate where it is the mate, ``-inf`` where it is another person or
            there is none.
        non_mated: (i,) similarity of the first candidate, ``-inf`` where there is none.
        fpir: 0..1.
    """
    for kind, scores in (("mated", mated), ("non-mated", non_mated)):
        if scores.ndim != 1 or not scores.size or not (scores < np.inf).all():
            raise ValueError(f"{kind} scores must be (n,), n at least 1, finite or -inf, not {scores!r}")
    permitted = most_errors(fpir, non_mated.size)
    limit = np.sort(non_mated)[-1 - permitted] if permitted < non_mated.size else -np.inf
    threshold = float(np.nextafter(np.float64(limit), np.inf))
    missed = int(np.count_nonzero(mated < threshold))
    passed = int(np.count_nonzero(non_mated >= threshold))
    return OpenSetPoint(fpir, threshold, missed / mated.size, passed, missed)
