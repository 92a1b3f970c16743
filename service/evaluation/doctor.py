"""What is wrong with a gallery, found by comparing all its faces with each other.

- Two persons who are probably one. Their similarity is looked at twice, between their two most similar faces and
  between the means of their faces, and each time by how far it stands out from what these two have with others: less
  the mean of both persons' ten next most similar persons (adaptive score normalisation: Matějka et al., "Analysis of
  score normalization in multilingual speaker recognition", Interspeech 2017). Some faces are like many others.
- A face that is nearer to another person than to its own: one of the two labels is wrong.
- How similar faces of different persons are here, which says what FMR, and so FPIR, to expect.

Pure numpy over tiles of whole persons: memory holds one tile, a few numbers for each face, and the pairs of persons
above the threshold of FMR 1e-4.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.evaluation.dyads import Floats, Integers, Rates, impostor_rates, with_interval
from service.evaluation.operating_points import Tile, person_tiles

Vectors = NDArray[np.float32]

# The cohort of a person: those next to the most similar one, who may be the same person.
COHORT = 10
# From what was planted in LFW, see docs/doctor.md.
DUPLICATE_EXCESS = 0.15
MISLABELLED_MARGIN = 0.2


@dataclass(frozen=True)
class Duplicate:
    """Two persons who are probably one, numbers; ``similarity`` is that of their most similar faces, rows, and
    ``excess`` how far they stand out from others."""

    persons: tuple[int, int]
    faces: tuple[int, int]
    similarity: float
    excess: float


@dataclass(frozen=True)
class Mislabelled:
    """A face, a row, that is nearer to the face ``nearest`` of the person ``other`` (``similarity``) than to any other
    face of its own ``person`` (``own``)."""

    face: int
    person: int
    other: int
    nearest: int
    own: float
    similarity: float


@dataclass(frozen=True, eq=False)
class Findings:
    """Worst first. ``impostor`` is the FMR at each of the thresholds that were asked for, without the duplicates and
    mislabelled faces found."""

    duplicates: tuple[Duplicate, ...]
    mislabelled: tuple[Mislabelled, ...]
    impostor: Rates


def examine(embeddings: Vectors, persons: Integers, related: float, thresholds: Floats) -> Findings:
    """Compare all faces of a gallery.

    Args:
        embeddings: (n, d) of unit length.
        persons: (n,) numbers from 0, all of them used.
        related: similarity from which two faces may be one person's: the threshold of FMR 1e-4.
        thresholds: (k,) ascending, at which the FMR among these persons is wanted.
    """
    nearest = _Nearest(persons)
    for tile in person_tiles(embeddings, persons):
        nearest.add(tile)
    mislabelled = tuple(nearest.mislabelled(related))
    # A face under a wrong name would make two persons look like one.
    clean = np.setdiff1d(np.arange(len(persons)), [found.face for found in mislabelled])
    likeness = _Likeness(embeddings[clean], persons[clean], related)
    for tile in person_tiles(embeddings[clean], persons[clean]):
        likeness.add(tile)
    duplicates = tuple(
        Duplicate(pair.persons, (int(clean[pair.faces[0]]), int(clean[pair.faces[1]])), pair.similarity, pair.excess)
        for pair in likeness.duplicates()
    )
    # A face may be nearer to the second name of its own person.
    twice = {pair.persons for pair in duplicates}
    mislabelled = tuple(m for m in mislabelled if (min(m.person, m.other), max(m.person, m.other)) not in twice)
    # Of two persons who are one, the second stays out.
    clean = clean[~np.isin(persons[clean], [max(pair.persons) for pair in duplicates])]
    if len(np.unique(persons[clean])) < 2:
        return Findings(duplicates, mislabelled, with_interval(np.zeros(len(thresholds)), np.zeros(len(thresholds)), 1))
    return Findings(duplicates, mislabelled, impostor_rates(embeddings[clean], persons[clean], thresholds))


@dataclass(eq=False)
class _Cohort:
    """The ``COHORT`` + 1 highest similarities of each person to others; column 0 is one that comes next to be lost."""

    highest: Floats = field(default_factory=lambda: np.empty((0, 0)))

    @classmethod
    def of(cls, people: int) -> "_Cohort":
        return cls(np.full((people, COHORT + 1), -1.0))

    def add(self, people: Integers, similarities: Floats) -> None:
        """Similarities (p, m) of these persons to m others."""
        both = np.concatenate([self.highest[people], similarities], axis=1)
        kept = both.shape[1] - (COHORT + 1)
        self.highest[people] = np.partition(both, kept, axis=1)[:, kept:]

    def means(self) -> Floats:
        """(p,) without the most similar one; persons who do not exist count as -1 and are left out."""
        ordered = np.sort(self.highest, axis=1)[:, :-1]
        there = ordered > -1
        totals: Floats = np.where(there, ordered, 0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
        return totals


class _Nearest:
    """The nearest face of the own and of another person, for each face."""

    def __init__(self, persons: Integers) -> None:
        self._persons = persons
        self._own, self._other = np.full(len(persons), -np.inf), np.full(len(persons), -np.inf)
        self._nearest = np.full(len(persons), -1)

    def add(self, tile: Tile) -> None:
        own = np.where(tile.genuine, tile.scores, -np.inf)
        np.maximum.at(self._own, tile.rows, own.max(axis=1))
        np.maximum.at(self._own, tile.columns, own.max(axis=0))
        other = np.where(tile.impostor, tile.scores, -np.inf)
        for axis, mine, theirs in ((1, tile.rows, tile.columns), (0, tile.columns, tile.rows)):
            best, place = other.max(axis=axis), other.argmax(axis=axis)
            nearer = best > self._other[mine]
            self._other[mine[nearer]], self._nearest[mine[nearer]] = best[nearer], theirs[place[nearer]]

    def mislabelled(self, related: float) -> Iterator[Mislabelled]:
        """Faces of persons with several, worst first."""
        beyond = (self._other - self._own > MISLABELLED_MARGIN) & (self._other >= related) & (self._own > -np.inf)
        rows = np.flatnonzero(beyond)
        for row in rows[np.argsort(self._own[rows] - self._other[rows])].tolist():
            nearest = int(self._nearest[row])
            person, other = int(self._persons[row]), int(self._persons[nearest])
            yield Mislabelled(row, person, other, nearest, float(self._own[row]), float(self._other[row]))


class _Likeness:
    """How alike persons are, for pairs above a threshold; the numbers of persons may have gaps."""

    def __init__(self, embeddings: Vectors, persons: Integers, related: float) -> None:
        self._persons, self._related = persons, related
        people = int(persons.max()) + 1
        sums = np.zeros((people, embeddings.shape[1]))
        np.add.at(sums, persons, embeddings)
        self._means = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        self._by_face, self._by_mean = _Cohort.of(people), _Cohort.of(people)
        self._pairs: list[tuple[int, int, int, int, float, float]] = []

    def add(self, tile: Tile) -> None:
        (above, starts), (left, begins) = _runs(self._persons[tile.rows]), _runs(self._persons[tile.columns])
        faces = np.maximum.reduceat(np.maximum.reduceat(tile.scores, starts, axis=0), begins, axis=1).astype(float)
        means = self._means[above] @ self._means[left].T
        same = above[:, None] == left[None, :]
        faces[same], means[same] = -1, -1
        for cohort, similarities in ((self._by_face, faces), (self._by_mean, means)):
            cohort.add(above, similarities)
            if not np.array_equal(above, left):
                cohort.add(left, similarities.T)
        close = np.maximum(faces, means) >= self._related
        if np.array_equal(above, left):
            close = np.triu(close, 1)
        edges, ends = np.append(starts, len(tile.rows)), np.append(begins, len(tile.columns))
        for a, b in zip(*np.nonzero(close), strict=True):
            block = tile.scores[edges[a] : edges[a + 1], ends[b] : ends[b + 1]]
            i, j = np.unravel_index(int(block.argmax()), block.shape)
            found = int(tile.rows[edges[a] + i]), int(tile.columns[ends[b] + j])
            self._pairs.append((int(above[a]), int(left[b]), *found, float(faces[a, b]), float(means[a, b])))

    def duplicates(self) -> Iterator[Duplicate]:
        """Those who stand out, worst first."""
        by_face, by_mean = self._by_face.means(), self._by_mean.means()
        found = []
        for a, b, i, j, faces, means in self._pairs:
            excess = ((faces - (by_face[a] + by_face[b]) / 2) + (means - (by_mean[a] + by_mean[b]) / 2)) / 2
            if excess >= DUPLICATE_EXCESS:
                first, second = sorted([(a, i), (b, j)])
                pair = (first[0], second[0]), (first[1], second[1])
                found.append(Duplicate(*pair, faces, float(excess)))
        yield from sorted(found, key=lambda pair: -pair.excess)


def _runs(persons: Integers) -> tuple[Integers, Integers]:
    """The persons of a side of a tile, whose faces lie together, and where each begins."""
    starts = np.flatnonzero(np.diff(persons, prepend=-1))
    return persons[starts], starts
