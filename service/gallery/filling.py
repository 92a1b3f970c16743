"""Bringing a segment to what the store has: all of it at the start, or what was missed since."""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.gallery.records import Templates
from service.gallery.segment import Segment
from service.gallery.vectors import Keys

# Faces of persons with several that are made searchable together.
PIECE = 8192


class Templated(Protocol):
    """Where the templates of a gallery come from: the ``Store``, or one space of it."""

    def face_keys(self, gallery_key: int) -> tuple[Keys, Keys]: ...

    def templates(self, gallery_key: int, after: int = 0) -> Iterator[Templates]: ...


def catch_up(
    segment: Segment, store: Templated, gallery_key: int, told: Callable[[int], object] = lambda _: None
) -> None:
    """Bring a segment, which nobody else changes, to what the store has: by the difference, all of it at first.

    Searches go on meanwhile. Raises GalleryNotFound.
    """
    (stored, owners), held = store.face_keys(gallery_key), segment.faces()
    segment.remove(np.setdiff1d(held, stored, assume_unique=True))
    missing = ~np.isin(stored, held, assume_unique=True)
    if not missing.any():
        return
    filling = Filling(segment, stored[missing], owners[missing])
    for templates in store.templates(gallery_key, after=int(stored[missing][0]) - 1):
        told(filling.put(templates))
    filling.finish()


class Filling:
    """Faces that come in the order of their keys, of persons in any order.

    Those of a person with several wait for each other, so that the template is made once.
    """

    def __init__(self, segment: Segment, faces: Keys, persons: Keys) -> None:
        """``faces``, ``persons``: int64 (n,), those to come."""
        self._segment = segment
        self._faces = np.sort(faces)
        own, counts = np.unique(persons, return_counts=True)
        waiting = np.isin(persons, own[counts > 1])
        order = np.lexsort((faces[waiting], persons[waiting]))
        self._waiting, self._persons = faces[waiting][order], persons[waiting][order]
        self._by_key = np.argsort(self._waiting)
        self._sorted = self._waiting[self._by_key]
        # Pieces of whole persons.
        firsts = np.flatnonzero(np.diff(self._persons, prepend=-1))
        cuts = np.unique(np.searchsorted(firsts, np.arange(0, len(self._persons), PIECE)))
        self._starts = np.append(firsts[cuts[cuts < len(firsts)]], len(self._persons))
        self._pieces = [_Piece(int(size), segment.dimension) for size in np.diff(self._starts)]

    def put(self, templates: Templates) -> int:
        """Take those that are among the ones to come; returns how many."""
        wanted = np.isin(templates.faces, self._faces, assume_unique=True)
        found = np.minimum(np.searchsorted(self._sorted, templates.faces), max(0, len(self._sorted) - 1))
        waits = np.zeros(len(wanted), np.bool_) if not len(self._sorted) else self._sorted[found] == templates.faces
        alone = wanted & ~waits
        self._segment.add(Templates(templates.faces[alone], templates.persons[alone], templates.embeddings[alone]))
        places = self._by_key[found[waits]] if waits.any() else np.empty(0, np.int64)
        numbers = np.searchsorted(self._starts, places, "right") - 1
        for number in np.unique(numbers):
            here = numbers == number
            self._pieces[number].put(places[here] - self._starts[number], templates.embeddings[waits][here])
            if self._pieces[number].full:
                self._give(int(number))
        return int(np.count_nonzero(wanted))

    def finish(self) -> None:
        """Make searchable what still waits: a face may have been deleted meanwhile."""
        for number in range(len(self._pieces)):
            self._give(number)

    def _give(self, number: int) -> None:
        piece, self._pieces[number] = self._pieces[number], _Piece(0, self._segment.dimension)
        rows = self._starts[number] + np.flatnonzero(piece.there)
        if len(rows):
            self._segment.add(Templates(self._waiting[rows], self._persons[rows], piece.vectors[piece.there]))


class _Piece:
    """Room for ``size`` vectors, and which of them are there."""

    def __init__(self, size: int, dimension: int) -> None:
        # Takes memory as it fills.
        self.vectors = np.zeros((size, dimension), np.float32)
        self.there: NDArray[np.bool_] = np.zeros(size, np.bool_)

    @property
    def full(self) -> bool:
        return bool(self.there.all())

    def put(self, places: Keys, vectors: NDArray[np.float32]) -> None:
        self.vectors[places] = vectors
        self.there[places] = True
