"""Verification of listed pairs, whatever list they come from: what is compared, and what is kept of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidRequest
from service.evaluation.pca import fit_pca, project
from service.evaluation.photos import PhotoSet


@dataclass(frozen=True)
class Pair:
    """Two photos to compare, by their names; ``fold`` counts from 0."""

    first: str
    second: str
    genuine: bool
    fold: int


@dataclass(frozen=True, eq=False)
class VerificationResult:
    """What comparing the pairs of a list gave; every figure is derived from it.

    Attributes:
        name: of the data set.
        pairs: as listed.
        photos: all that the pairs name, each once.
        persons: (p,) int64, belongs to the photos: the same number for photos of one person.
        labelled: whether the data set says who the persons are. If not, they are put together from the genuine pairs,
            and photos of two numbers may still be of one person.
        pairs_file: where the list comes from; ``pairs_sha256`` is its digest.
    """

    name: str
    pairs: tuple[Pair, ...]
    photos: PhotoSet
    persons: NDArray[np.int64]
    labelled: bool
    pairs_file: Path
    pairs_sha256: str

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """(2, n) the photos of each pair."""
        row_of = {name: row for row, name in enumerate(self.photos.names)}
        return np.array([[row_of[pair.first] for pair in self.pairs], [row_of[pair.second] for pair in self.pairs]])

    @cached_property
    def genuine(self) -> NDArray[np.bool_]:
        """(n,) the label of each pair."""
        return np.array([pair.genuine for pair in self.pairs])

    @cached_property
    def folds(self) -> NDArray[np.int64]:
        """(n,) the fold of each pair."""
        return np.array([pair.fold for pair in self.pairs])

    @cached_property
    def similarity(self) -> NDArray[np.float64]:
        """(n,) a cosine, or ``-inf`` where either photo has no face."""
        return self._similarity(self.photos.embeddings)

    def similarity_after_pca(self, components: int) -> NDArray[np.float64]:
        """(folds, n): all pairs as each fold compares them, which has fitted a PCA for itself.

        It is fitted to the photos that the other folds' pairs name, less those of persons whom its own pairs show,
        too: on what is tested it has seen nobody. With the pairs of the others its threshold is to be chosen.

        Raises:
            InvalidRequest: there is one fold only, or so few photos that they do not determine the components.
        """
        numbers = np.unique(self.folds)
        if len(numbers) < 2:
            raise InvalidRequest(
                f"{self.pairs_file} has one fold, so a PCA would be fitted to the photos that it is tested on; "
                "give a list of pairs with two folds or more"
            )
        scores = np.empty((len(numbers), len(self.pairs)))
        for k, fold in enumerate(numbers):
            tested = self.folds == fold
            seen = np.setdiff1d(self.rows[:, ~tested], np.flatnonzero(~self.photos.detected))
            seen = seen[~np.isin(self.persons[seen], self.persons[self.rows[:, tested]])]
            projection = fit_pca(self.photos.embeddings[seen], components)
            scores[k] = self._similarity(project(self.photos.embeddings, *projection))
        return scores

    def _similarity(self, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
        first, second = self.rows
        cosines = np.einsum("nd,nd->n", embeddings[first], embeddings[second], dtype=np.float64)
        return np.where(self.photos.detected[first] & self.photos.detected[second], cosines, -np.inf)


def named_in(pairs: Sequence[Pair]) -> list[str]:
    """The photos that the pairs name, sorted."""
    return sorted({photo for pair in pairs for photo in (pair.first, pair.second)})
