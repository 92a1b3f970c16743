"""The rows of a segment: a template for each person, and the faces that it is made of."""

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.gallery.column import Column
from service.gallery.index import make_index
from service.gallery.person_template import person_templates
from service.gallery.records import Templates
from service.gallery.shelf import Shelf
from service.gallery.vectors import Keys

UNIT_TOLERANCE = 1e-2
NO_ROW = -1
# Vectors of the shelf that are compared with a probe at a time.
COMPARED = 8192
Mask = NDArray[np.bool_]


class PersonRows:
    """A vector index of persons' templates, and their faces. Not thread-safe.

    A row never changes: a person whose faces change gets a new one, and the old one is buried. A person with one face
    has it as the template; the faces of persons with several lie on a shelf, each person's together and in the order of
    their keys.

    Attributes:
        index: the templates by row.
        faces_live: how many faces the rows have that are not dead.
        sizes: how many persons have so many faces.
    """

    def __init__(self, dimension: int, device: str = "cpu") -> None:
        self._dimension, self._device = dimension, device
        self.index = make_index(dimension, device)
        self.faces_live = 0
        self.sizes: Counter[int] = Counter()
        self._largest_face = self._largest_person = np.iinfo(np.int64).min
        self._persons, self._dead = Column(np.int64), Column(np.bool_)
        # The only face of a row, or where on the shelf its first one is.
        self._places, self._counts = Column(np.int64), Column(np.int32)
        self._shelf = Shelf(dimension)
        self._shelved, self._shelved_rows = Column(np.int64), Column(np.int64)

    def __len__(self) -> int:
        """All rows, dead ones too."""
        return len(self._persons.values)

    @property
    def persons(self) -> Keys:
        """int64 (n,), of dead rows too."""
        return self._persons.values

    @property
    def counts(self) -> NDArray[np.int32]:
        """How many faces each row has, int32 (n,)."""
        return self._counts.values

    @property
    def dead(self) -> Mask:
        """bool (n,)."""
        return self._dead.values

    @property
    def persons_live(self) -> int:
        """How many persons have a row that is not dead."""
        return self.sizes.total()

    @property
    def waste(self) -> tuple[int, int]:
        """How many vectors are kept for nothing, and of how many."""
        kept, needed = len(self) + len(self._shelf), self.persons_live + self.faces_live - self.sizes[1]
        return kept - needed, kept

    def faces(self) -> Keys:
        """The keys of all live faces, int64 (n,), in no order."""
        alone = ~self.dead & (self.counts == 1)
        return np.concatenate([self._places.values[alone], self._shelved.values[self._shelved_rows.values != NO_ROW]])

    def add(self, new: Templates) -> None:
        """Give persons faces, whether they have some already or not.

        Raises ValueError, and changes nothing, for shapes that do not agree, faces that are there already, and
        embeddings that are not of unit length.
        """
        self._check(new)
        owners = np.unique(new.persons)
        before = np.empty(0, np.int64)
        # Keys grow with time, so most new faces of new persons need no search for older ones.
        if len(owners) and owners[0] <= self._largest_person:
            before = np.flatnonzero(np.isin(self.persons, owners) & ~self.dead)
        self.append(_joined(self.faces_of(before), new))
        self.bury(before)

    def remove(self, faces: Keys) -> None:
        """Take faces out, and overwrite their vectors; faces that are not there are passed over."""
        rows = self.rows_with(faces)
        numbers = self._on_shelf(rows)
        # Of what goes no copy is made.
        others = self._of_shelf(numbers[~np.isin(self._shelved.values[numbers], faces)])
        self.bury(rows)
        self.append(others)

    def append(self, faces: Templates) -> None:
        """New rows, by ascending key, for persons of whom these are all the faces."""
        order = np.lexsort((faces.faces, faces.persons))
        persons, starts, counts = np.unique(faces.persons[order], return_index=True, return_counts=True)
        vectors, several = faces.embeddings[order], counts > 1
        shelved = np.repeat(several, counts)
        first, row = len(self._shelf), len(self)
        places = np.where(several, first + np.cumsum(counts * several) - counts, faces.faces[order][starts])
        templates = person_templates(vectors, starts, counts)
        # What is noted of them below needs no memory any more.
        for column in (self._persons, self._dead, self._places, self._counts):
            column.reserve(len(persons))
        for column in (self._shelved, self._shelved_rows):
            column.reserve(int(shelved.sum()))
        try:
            self._shelf.add(vectors[shelved])
            self.index.add(templates)
        except BaseException:
            self._give_up(row)
            raise
        self._shelved.extend(faces.faces[order][shelved])
        self._shelved_rows.extend(np.repeat(np.arange(row, row + len(persons)), counts)[shelved])
        self._persons.extend(persons)
        self._places.extend(places)
        self._counts.extend(counts)
        self._dead.extend(np.zeros(len(persons), np.bool_))
        self._count(counts, 1)
        if len(order):
            self._largest_face = max(self._largest_face, int(faces.faces.max()))
            self._largest_person = max(self._largest_person, int(persons[-1]))

    def bury(self, rows: Keys) -> None:
        """Mark rows, each given once, as dead, and overwrite their vectors and those of their faces."""
        rows = rows[~self.dead[rows]]
        self.dead[rows] = True
        self._count(self.counts[rows], -1)
        numbers = self._on_shelf(rows)
        self._shelved_rows.values[numbers] = NO_ROW
        self._shelf.erase(numbers)
        self.index.erase(rows)  # last: on a GPU it can fail

    def rows_with(self, faces: Keys) -> Keys:
        """The live rows that have some of these faces, each once."""
        alone = np.isin(self._places.values, faces) & (self.counts == 1) & ~self.dead
        rows = self._shelved_rows.values[np.isin(self._shelved.values, faces)]
        return np.concatenate([np.flatnonzero(alone), np.unique(rows[rows != NO_ROW])])

    def part_end(self, start: int, vectors: int) -> int:
        """Where a range of rows ends that begins at ``start`` and has about so many live faces, or rows, at most."""
        held = np.cumsum(np.maximum(1, self.counts[start : start + vectors] * ~self.dead[start : start + vectors]))
        return start + max(1, int(np.searchsorted(held, vectors, "right")))

    def live_part(self, start: int, stop: int) -> tuple[Keys, Templates]:
        """The live rows in a range of rows, by ascending person, and all their faces."""
        rows = start + np.flatnonzero(~self.dead[start:stop])
        rows = rows[np.argsort(self.persons[rows])]
        return rows, self.faces_of(rows)

    def faces_of(self, rows: Keys) -> Templates:
        """All faces of these rows."""
        alone = rows[self.counts[rows] == 1]
        return _joined(
            Templates(self._places.values[alone], self.persons[alone], self.index.vectors(alone)),
            self._of_shelf(self._on_shelf(rows)),
        )

    def most_similar(self, rows: Keys, probe: NDArray[np.float64]) -> Keys:
        """Of the faces of each row the one most similar to the probe, (d,); of equals the one with the smallest key."""
        faces = self._places.values[rows]
        several = np.flatnonzero(self.counts[rows] > 1)
        if not len(several):
            return faces
        counts = self.counts[rows[several]]
        numbers = self._on_shelf(rows[several])
        parts = (numbers[start : start + COMPARED] for start in range(0, len(numbers), COMPARED))
        similarities = np.concatenate([(self._shelf.vectors(part) * probe).sum(axis=1) for part in parts])
        owner = np.repeat(np.arange(len(several)), counts)
        order = np.lexsort((self._shelved.values[numbers], -similarities, owner))
        firsts = order[np.cumsum(counts) - counts]
        faces[several] = self._shelved.values[numbers[firsts]]
        return faces

    def emptied(self) -> "PersonRows":
        return PersonRows(self._dimension, self._device)

    def _on_shelf(self, rows: Keys) -> Keys:
        """The numbers on the shelf of all faces of those rows that have several, row by row."""
        rows = rows[self.counts[rows] > 1]
        counts = self.counts[rows].astype(np.int64)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        numbers: Keys = np.repeat(self._places.values[rows], counts) + within
        return numbers

    def _of_shelf(self, numbers: Keys) -> Templates:
        """The faces with these numbers on the shelf, of live rows."""
        owners = self.persons[self._shelved_rows.values[numbers]]
        return Templates(self._shelved.values[numbers], owners, self._shelf.vectors(numbers))

    def _count(self, counts: NDArray[Any], sign: int) -> None:
        self.faces_live += sign * int(counts.sum())
        for size, number in zip(*np.unique(counts, return_counts=True), strict=True):
            self.sizes[int(size)] += sign * int(number)
        self.sizes = +self.sizes

    def _give_up(self, row: int) -> None:
        """What was appended from ``row`` on, before the rest failed, stays as dead rows."""
        kept = len(self.index) - row
        for column, value in ((self._persons, NO_ROW), (self._places, 0), (self._counts, 1), (self._dead, True)):
            column.extend(np.full(kept, value))
        lost = len(self._shelf) - len(self._shelved.values)
        self._shelf.erase(np.arange(len(self._shelf) - lost, len(self._shelf)))
        self._shelved.extend(np.zeros(lost, np.int64))
        self._shelved_rows.extend(np.full(lost, NO_ROW))
        self.index.erase(np.arange(row, row + kept))

    def _check(self, new: Templates) -> None:
        n = len(new.faces)
        shapes = new.faces.shape, new.persons.shape, new.embeddings.shape
        if shapes != ((n,), (n,), (n, self._dimension)):
            raise ValueError(f"Templates of shapes {shapes} do not fit an index of dimension {self._dimension}.")
        squares = np.einsum("ij,ij->i", new.embeddings, new.embeddings)
        if not np.all(np.abs(np.sqrt(squares) - 1) <= UNIT_TOLERANCE):
            raise ValueError("An embedding is not of unit length.")
        if len(np.unique(new.faces)) < n:
            raise ValueError("A face is given twice.")
        if n and new.faces.min() <= self._largest_face and len(self.rows_with(new.faces)):
            raise ValueError("A face is in the index already.")


def _joined(some: Templates, others: Templates) -> Templates:
    if not len(some.faces):
        return others
    return Templates(
        np.concatenate([some.faces, others.faces]),
        np.concatenate([some.persons, others.persons]),
        np.concatenate([some.embeddings, others.embeddings]),
    )
