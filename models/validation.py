"""Verification of people who were not trained on, by the protocol of Labeled Faces in the Wild, during a training."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.data import Faces
from models.embed import TorchEmbedder
from service.evaluation.metrics import cross_validated_accuracy, tar_at_far

FOLDS = 10
TAR_AT = {"tar_at_far_1e-2": 1e-2, "tar_at_far_1e-3": 1e-3}


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of rows, (p,) int64 each; ``genuine`` (p,) bool: both are of one identity; ``folds`` (p,) int64.

    No identity is in two folds.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    genuine: NDArray[np.bool_]
    folds: NDArray[np.int64]


def draw_pairs(labels: NDArray[np.int64], count: int, seed: int) -> Pairs:
    """At most ``count`` genuine and as many impostor pairs at random, no pair twice, in ten folds of equal halves.

    Identities are drawn with equal chance, however many photos they have.

    Args:
        labels: (n,) the identity of each row, from 0, each with a row at least.

    Raises:
        ValueError: a fold has no genuine or no impostor pair: too few identities, or too few with two photos.
    """
    rng = np.random.default_rng(seed)
    rows, counts = np.argsort(labels, kind="stable"), np.bincount(labels)
    starts = np.cumsum(counts) - counts
    identities = rng.permutation(len(counts))
    folds = max(1, min(FOLDS, len(identities) // 2))
    parts = []
    for fold in range(folds):
        own = identities[fold::folds]
        several = own[counts[own] > 1]
        if len(own) < 2 or not len(several):
            raise ValueError(
                f"{len(counts)} identities with {len(labels)} photos are too few to validate on; hold out more"
            )
        draws = -(-count // folds)
        one = rng.choice(several, draws)
        a, b = _two_of(counts[one], rng)
        genuine = _distinct(rows[starts[one] + a], rows[starts[one] + b])
        k, j = _two_of(np.full(draws, len(own)), rng)
        impostor = _distinct(*(rows[starts[p] + rng.integers(0, counts[p])] for p in (own[k], own[j])))
        # As many of each, else the accuracy of a coin would not be a half.
        most = min(len(genuine), len(impostor))
        parts.append((rng.permutation(genuine)[:most], True, fold))
        parts.append((rng.permutation(impostor)[:most], False, fold))
    pairs = np.concatenate([found for found, _, _ in parts])
    repeats = [len(found) for found, _, _ in parts]
    return Pairs(
        pairs[:, 0],
        pairs[:, 1],
        np.repeat([kind for _, kind, _ in parts], repeats),
        np.repeat([fold for _, _, fold in parts], repeats),
    )


class Verification:
    """Held-out identities, whose pairs a backbone is tried on as often as one likes."""

    def __init__(self, faces: Faces, pairs: int, seed: int) -> None:
        drawn = draw_pairs(faces.labels, pairs, seed)
        used, inverse = np.unique(np.concatenate([drawn.first, drawn.second]), return_inverse=True)
        first, second = np.split(inverse, 2)
        self.pairs = Pairs(first, second, drawn.genuine, drawn.folds)  # rows of crops
        self.crops = np.stack([faces.read(int(row)) for row in used])

    def __call__(self, embed: TorchEmbedder) -> dict[str, float]:
        """Accuracy at a threshold chosen on the other folds, and the true accept rates at two false accept rates."""
        return figures_of(self.scores(embed), self.pairs)

    def scores(self, embed: TorchEmbedder) -> NDArray[np.float64]:
        """The cosine of each pair, (p,)."""
        embeddings, _ = embed(self.crops)
        scores: NDArray[np.float64] = np.einsum(
            "nd,nd->n", embeddings[self.pairs.first], embeddings[self.pairs.second], dtype=np.float64
        )
        return scores


def figures_of(scores: NDArray[np.float64], pairs: Pairs) -> dict[str, float]:
    """Figures of merit of the scores of pairs, by name."""
    every = np.ones(len(scores), np.bool_)
    validation = cross_validated_accuracy(scores, pairs.genuine, pairs.folds, every)
    genuine, impostor = scores[pairs.genuine], scores[~pairs.genuine]
    rates = {name: tar_at_far(genuine, impostor, far) for name, far in TAR_AT.items()}
    return {"accuracy": float(validation.accuracy.mean()), **rates}


def _two_of(counts: NDArray[np.int64], rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Two different numbers from 0 to n − 1 for each n."""
    a = rng.integers(0, counts)
    return a, (a + rng.integers(1, counts)) % counts


def _distinct(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.int64]:
    return np.unique(np.stack([np.minimum(first, second), np.maximum(first, second)], 1), axis=0)
