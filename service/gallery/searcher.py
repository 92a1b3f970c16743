"""Who answers the searches of a gallery: the one seam between galleries and the engines that search them."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.gallery.candidates import Candidate
from service.gallery.records import GalleryRecord, Metadata, Templates


@dataclass(frozen=True, eq=False)
class Question:
    """Who are these?

    Attributes:
        probes: float32 (q, d), unit length.
        top_k: the most candidates wanted for each.
        where: only persons with these metadata; None for all.
        exact: compare with every face, also where an index would be quicker and miss one in a thousand.
    """

    probes: NDArray[np.float32]
    top_k: int
    where: Metadata | None = None
    exact: bool = False


@dataclass(frozen=True)
class SearchResult:
    """Candidates of each probe, best first, and what was searched.

    Attributes:
        persons: how many, also those without a face, who cannot be found.
        faces: of the gallery.
        sizes: how many of the persons searched have so many faces.
    """

    persons: int
    faces: int
    sizes: Mapping[int, int]
    candidates: tuple[tuple[Candidate, ...], ...]


@dataclass(frozen=True)
class Held:
    """What searches see of a gallery.

    Attributes:
        faces: how many.
        loaded: whether these are all that it had when the service started.
        behind: how many changes of the gallery it has not seen; a search makes up for them first, or goes elsewhere.
    """

    faces: int
    loaded: bool = True
    behind: int = 0


class Changed(Protocol):
    """Takes what was changed in the store. A ``Segment`` is one."""

    def add(self, templates: Templates) -> None:
        """Faces that are there from now on."""

    def remove(self, faces: NDArray[np.int64]) -> None:
        """The keys, int64 (n,), of faces that are gone."""


class Searcher(Protocol):
    """Answers the searches of one gallery.

    A search sees every change that was answered before it began, and nothing of what was deleted before. Similarities
    are cosines with the persons' templates, in float64 from the stored float32; equals by the smaller key.

    Attributes:
        loaded: whether it can be asked yet.
        told: whether it has to be told of changes (see ``changing``), and does not learn of them from the store.
    """

    loaded: bool
    told: bool

    def load(self, progress: Callable[[int], object]) -> int:
        """Get ready; how many faces have come with it. ``progress`` is told how many more, again and again.

        Raises GalleryNotFound (deleted meanwhile).
        """

    def changing(self, gallery: str) -> AbstractContextManager[Changed]:
        """For one change of the gallery with this id: what is to be told of it when the store has it."""

    def search(self, gallery: GalleryRecord, question: Question) -> SearchResult:
        """The persons most like each probe. ``gallery`` is what the store says of it now.

        Raises GalleryNotFound (deleted meanwhile).
        """

    def held(self, gallery: GalleryRecord) -> Held:
        """What searches see of it."""


class Searchers(Protocol):
    """Makes the searchers of all galleries.

    Attributes:
        device: where searches run: "cpu", "cuda", "postgresql".
        exact: whether every answer is exact unless it is asked for otherwise.
    """

    device: str
    exact: bool

    def of(self, gallery: GalleryRecord, made_now: bool) -> Searcher:
        """A searcher for one gallery; ``made_now``: it was made since the service started."""

    def forget(self, key: int) -> None:
        """The gallery with this key is gone."""
