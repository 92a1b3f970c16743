"""Scores of genuine and of impostor pairs with the persons they are of: what rates and figures are made from.

A few thousand listed pairs are kept as they are. All pairs of a folder may be thousands of millions: the genuine ones
and the highest impostors are kept, and a random sample stands for the other impostors.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidRequest
from service.evaluation.operating_points import RULE_OF_3, count_pairs, operating_points, tiles
from service.evaluation.photos import PhotoSet
from service.evaluation.verification import VerificationResult

Integers = NDArray[np.integer[Any]]

RATES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
HIGHEST = 2**17
SAMPLED = 2**18
SEED = 0


@dataclass(frozen=True, eq=False)
class Comparisons:
    """Scores, float64, ``-inf`` where either photo has no face.

    Attributes:
        genuine: (g,), g at least 1.
        genuine_persons: (g,) the person of each.
        impostor: (i,), i at least 1.
        impostor_persons: (2, i) the persons of each.
        stand_for: (i,) float64, how many impostor pairs each stands for.
    """

    genuine: NDArray[np.float64]
    genuine_persons: Integers
    impostor: NDArray[np.float64]
    impostor_persons: Integers
    stand_for: NDArray[np.float64]

    @property
    def impostors(self) -> int:
        """How many impostor pairs there are, those that others stand for included."""
        return round(float(self.stand_for.sum()))

    @property
    def rates(self) -> list[float]:
        """The FARs of ``RATES`` that so many impostors can speak about (rule of 3, ISO/IEC 19795-1)."""
        return [rate for rate in RATES if rate >= RULE_OF_3 / self.impostors]


def listed_pairs(result: VerificationResult, similarity: NDArray[np.float64]) -> Comparisons:
    """The pairs of a list, as they are.

    Args:
        similarity: (n,) of each pair, ``-inf`` where it could not be compared.
    """
    persons, genuine = result.persons[result.rows], result.genuine
    if not 0 < genuine.sum() < len(genuine):
        raise InvalidRequest(
            f"{result.pairs_file} lists {genuine.sum()} genuine pairs and {(~genuine).sum()} impostor pairs; "
            "both kinds are needed"
        )
    return Comparisons(
        similarity[genuine],
        persons[0, genuine],
        similarity[~genuine],
        persons[:, ~genuine],
        np.ones(np.count_nonzero(~genuine)),
    )


def all_pairs(photos: PhotoSet, persons: Integers, highest: int = HIGHEST, sampled: int = SAMPLED) -> Comparisons:
    """All pairs of photos: of one person, genuine; of two, impostor.

    Of the impostors the highest are kept, about ``highest``, and of the others about ``sampled`` at random; where
    there are no more than both together, all.

    Args:
        persons: (p,) the same number for photos of the same person.

    Raises:
        InvalidRequest: there is no genuine or no impostor pair of photos in which a face was found.
    """
    n_detected = count_pairs(persons[photos.detected])[1]
    n_impostors = count_pairs(persons)[1]
    floor, share = -np.inf, 1.0
    if n_impostors > highest + sampled:
        rate = highest / n_detected
        [point] = operating_points(photos.embeddings[photos.detected], persons[photos.detected], (rate,)).points
        floor, share = point.threshold, sampled / (n_impostors - highest)
    rng = np.random.default_rng(SEED)
    genuine, impostors = [], []
    for tile in tiles(photos.embeddings, persons):
        detected = photos.detected[tile.rows, None] & photos.detected[tile.columns]
        scores = np.where(detected, tile.scores, -np.inf)
        rows, columns = np.nonzero(tile.genuine)
        genuine.append((scores[rows, columns], persons[tile.rows[rows]]))
        rows, columns = np.nonzero(tile.impostor & ((scores >= floor) | (rng.random(scores.shape, np.float32) < share)))
        impostors.append((scores[rows, columns], persons[tile.rows[rows]], persons[tile.columns[columns]]))
    impostor, first, second = (np.concatenate(part) for part in zip(*impostors, strict=True))
    exact = impostor >= floor
    stand_for = np.where(exact, 1.0, (n_impostors - exact.sum()) / max(1, np.count_nonzero(~exact)))
    genuine_scores, genuine_persons = (np.concatenate(part) for part in zip(*genuine, strict=True))
    return Comparisons(genuine_scores, genuine_persons, impostor, np.stack([first, second]), stand_for)
