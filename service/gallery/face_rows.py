"""The rows of a segment: a vector index with the face and the person of each row."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from service.gallery.index import make_index
from service.gallery.records import Templates
from service.gallery.vectors import Keys

UNIT_TOLERANCE = 1e-2


class FaceRows:
    """A vector index with the face and the person of each row, and which rows are dead. Not thread-safe.

    Attributes:
        faces, persons: int64 (n,).
        dead: bool (n,).
        live: how many rows are not dead.
        sizes: how many persons have so many such rows.
    """

    def __init__(self, dimension: int, device: str = "cpu") -> None:
        self._dimension, self._device = dimension, device
        self.index = make_index(dimension, device)
        self.live = 0
        self.sizes: Counter[int] = Counter()
        self._used = 0
        self._largest_face = self._largest_person = np.iinfo(np.int64).min
        self._faces = np.empty(0, np.int64)
        self._persons = np.empty(0, np.int64)
        self._dead = np.empty(0, np.bool_)

    def __len__(self) -> int:
        """All rows, dead ones too."""
        return self._used

    @property
    def persons_live(self) -> int:
        """How many persons have a row that is not dead."""
        return self.sizes.total()

    @property
    def faces(self) -> Keys:
        return self._faces[: self._used]

    @property
    def persons(self) -> Keys:
        return self._persons[: self._used]

    @property
    def dead(self) -> NDArray[np.bool_]:
        return self._dead[: self._used]

    def append(self, templates: Templates) -> None:
        """Raises ValueError, and changes nothing, for shapes that do not agree, faces that are there already, and
        embeddings that are not of unit length."""
        self._check(templates)
        start, stop = self._used, self._used + len(templates.faces)
        self._reserve(stop)
        try:
            self.index.add(templates.embeddings)
        except BaseException:
            # What was appended before it failed stays in the index; its rows count from now on, as dead ones.
            self._used = len(self.index)
            self._dead[start : self._used] = True
            raise
        self._count(templates.persons, added=True)
        self._faces[start:stop], self._persons[start:stop] = templates.faces, templates.persons
        self._dead[start:stop] = False
        self._used = stop
        self.live += stop - start
        if stop > start:
            self._largest_face = max(self._largest_face, int(templates.faces.max()))
            self._largest_person = max(self._largest_person, int(templates.persons.max()))

    def bury(self, rows: Keys) -> None:
        """Mark the rows, each given once, as dead and overwrite their vectors."""
        rows = rows[~self._dead[rows]]
        self._dead[rows] = True
        self.live -= len(rows)
        self._count(self._persons[rows], added=False)
        self.index.erase(rows)

    def rows_of(self, faces: Keys) -> Keys:
        """The live rows of these faces; faces that are not there are passed over."""
        return np.flatnonzero(np.isin(self.faces, faces) & ~self.dead)

    def live_part(self, start: int, stop: int) -> tuple[Keys, Templates]:
        """The live rows in a range of rows: their numbers and what they hold."""
        rows = start + np.flatnonzero(~self.dead[start:stop])
        return rows, Templates(self._faces[rows], self._persons[rows], self.index.vectors(rows))

    def emptied(self) -> "FaceRows":
        return FaceRows(self._dimension, self._device)

    def _check(self, templates: Templates) -> None:
        n = len(templates.faces)
        shapes = templates.faces.shape, templates.persons.shape, templates.embeddings.shape
        if shapes != ((n,), (n,), (n, self._dimension)):
            raise ValueError(f"Templates of shapes {shapes} do not fit an index of dimension {self._dimension}.")
        squares = np.einsum("ij,ij->i", templates.embeddings, templates.embeddings)
        if not np.all(np.abs(np.sqrt(squares) - 1) <= UNIT_TOLERANCE):
            raise ValueError("An embedding is not of unit length.")
        if len(np.unique(templates.faces)) < n:
            raise ValueError("A face is given twice.")
        # Keys grow with time, so the search for a double is rarely needed.
        if n and templates.faces.min() <= self._largest_face and len(self.rows_of(templates.faces)):
            raise ValueError("A face is in the index already.")

    def _count(self, persons: Keys, added: bool) -> None:
        """Keep ``sizes``: these rows come on top of those that are live, or have just left them."""
        own, changed = np.unique(persons, return_counts=True)
        live = np.zeros(len(own), np.int64)
        older = own[own <= self._largest_person]
        if len(older):
            there = self.persons[np.isin(self.persons, older) & ~self.dead]
            present, counts = np.unique(there, return_counts=True)
            live[np.searchsorted(own, present)] = counts
        more = live + changed
        before, after = (live, more) if added else (more, live)
        for sizes, sign in ((before, -1), (after, 1)):
            for size, number in zip(*np.unique(sizes[sizes > 0], return_counts=True), strict=True):
                self.sizes[int(size)] += sign * int(number)
        self.sizes = +self.sizes

    def _reserve(self, rows: int) -> None:
        if rows > len(self._faces):
            more = max(rows, len(self._faces) * 5 // 4, 64) - self._used
            self._faces = np.concatenate([self.faces, np.zeros(more, np.int64)])
            self._persons = np.concatenate([self.persons, np.zeros(more, np.int64)])
            self._dead = np.concatenate([self.dead, np.ones(more, np.bool_)])
