"""What it does to the error rates that a person stands by the mean of several enrolled photos.

What is only in one of a person's photos is averaged out of the mean. With photos of unit length and a mean cosine of ρ
between two of one person, the sum of k of them has the length √(k (1 + (k − 1) ρ)) on average. A stranger's similarity
to a photo varies with the person and with the photo; where c is the person's share of the variance, the similarity to
the mean is as that to one photo, times s with s² = (1 + (k − 1) c) / (1 + (k − 1) ρ). ρ is measured as it is; c is
where the false matches that single photos of the same persons have at t / s meet those counted with means at t.

The person himself is missed more rarely: what share of one photo's misses is left is counted for each k up to 5, beyond
which too few are missed to count them.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from service.evaluation.dyads import Floats, Integers
from service.evaluation.metrics import Scores
from service.gallery.person_template import person_templates
from service.runtime.card import OfMean

# More photos of one person than this are not what galleries hold, and would outweigh all others.
MOST_PHOTOS = 10
SIZES = (2, 3, 5, 8)
MISSED_SIZES = (2, 3, 4, 5)
DRAWS = 3
# Where nobody is missed that does not prove that nobody will be.
UNSEEN = 0.5
# Single photos are counted by steps of the similarity, from somewhat below the lowest threshold on.
STEP, BELOW = 1 / 1024, 0.8
TILE = 1024


def measure_of_mean(
    embeddings: NDArray[np.float32], persons: Integers, thresholds: Scores, seed: int = 0
) -> OfMean | None:
    """None where persons have too few photos to tell.

    Args:
        embeddings: (n, d) float32 of unit length.
        persons: (n,) the same number for photos of one person.
        thresholds: (k,) ascending, those that a search is likely to use.
    """
    rng = np.random.default_rng(seed)
    photos = _Photos.few(embeddings, persons, rng)
    if not (photos.counts > 1).any():
        return None
    likeness = photos.likeness()
    strangers = _stranger_likeness(photos, thresholds, likeness, rng)
    if strangers is None:
        return None
    shares = _fnmr_shares(photos, thresholds, rng)
    return OfMean(photo_likeness=likeness, stranger_likeness=strangers, fnmr_shares=shares)


class _Photos:
    """Up to ``MOST_PHOTOS`` of each person: ``vectors`` (n, d), each person's together in random order; ``starts``,
    ``counts`` (people,) where they are; ``owners`` (n,) persons by number from 0; ``weights`` (n,) one over the count.
    """

    def __init__(self, vectors: NDArray[np.float32], owners: Integers) -> None:
        self.vectors, self.owners = vectors, owners
        _, self.starts, self.counts = np.unique(owners, return_index=True, return_counts=True)
        self.weights: Floats = 1 / self.counts[owners]

    @classmethod
    def few(cls, embeddings: NDArray[np.float32], persons: Integers, rng: np.random.Generator) -> "_Photos":
        owners = np.unique(persons, return_inverse=True)[1]
        mixed = rng.permutation(len(owners))
        order = mixed[np.argsort(owners[mixed], kind="stable")]
        counts = np.bincount(owners)
        ranks = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
        kept = order[ranks < MOST_PHOTOS]
        return cls(embeddings[kept], owners[kept])

    def likeness(self) -> float:
        """The mean over persons of the mean cosine of two of their photos."""
        sums = np.add.reduceat(self.vectors.astype(np.float64), self.starts, axis=0)
        several = self.counts > 1
        counts = self.counts[several]
        squares = (sums[several] ** 2).sum(axis=1)
        return float(np.clip(((squares - counts) / (counts * (counts - 1))).mean(), 0, 1))

    def drawn(self, persons: Integers, size: int, rng: np.random.Generator) -> Integers:
        """(persons, size): for each person so many of the photos, in random order."""
        keys = rng.random((len(persons), MOST_PHOTOS))
        keys[np.arange(MOST_PHOTOS) >= self.counts[persons, None]] = 2
        return self.starts[persons, None] + np.argsort(keys, axis=1)[:, :size]

    def means(self, rows: Integers) -> NDArray[np.float32]:
        """(m, d) of the photos in each row of (m, k)."""
        starts = np.arange(len(rows)) * rows.shape[1]
        return person_templates(self.vectors[rows.ravel()], starts, np.full(len(rows), rows.shape[1]))

    def matches(self, templates: NDArray[np.float32], owners: Integers, edges: Floats) -> Floats:
        """(m, edges): of how many other persons' photos, each person counting as one, the similarity to each template
        is at or above each edge."""
        counts = np.zeros((len(templates), len(edges)))
        for start in range(0, len(templates), TILE):
            scores = templates[start : start + TILE] @ self.vectors.T
            rows, columns = np.nonzero(scores >= edges[0])
            strange = owners[start + rows] != self.owners[columns]
            rows, columns = rows[strange], columns[strange]
            step = np.searchsorted(edges, scores[rows, columns], "right") - 1
            np.add.at(counts, (start + rows, step), self.weights[columns])
        return np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]


def _stranger_likeness(photos: _Photos, thresholds: Scores, likeness: float, rng: np.random.Generator) -> float | None:
    several = np.flatnonzero(photos.counts > 1)
    edges = np.arange(BELOW * thresholds[0], 1.0, STEP)
    rows = np.flatnonzero(photos.counts[photos.owners] > 1)
    by_photo = photos.matches(photos.vectors[rows], photos.owners[rows], edges) * photos.weights[rows, None]
    single = np.zeros((len(photos.counts), len(edges)))
    np.add.at(single, photos.owners[rows], by_photo)
    counted, alone = [], []
    for size in SIZES:
        persons = several[photos.counts[several] >= size]
        owners = np.tile(persons, DRAWS)
        means = photos.means(np.concatenate([photos.drawn(persons, size, rng) for _ in range(DRAWS)]))
        counted.append(photos.matches(means, owners, thresholds.astype(np.float64)).sum(axis=0) / DRAWS)
        alone.append(single[persons].sum(axis=0))
    found = np.array(counted)
    if not found.any():
        return None
    # A count scatters as its root.
    scatter = np.sqrt(np.maximum(found.sum(axis=0), 1))

    def missing(c: float) -> float:
        stretch = [np.sqrt((1 + (k - 1) * c) / (1 + (k - 1) * likeness)) for k in SIZES]
        expected = [np.interp(thresholds / s, edges, row) for s, row in zip(stretch, alone, strict=True)]
        return float(((np.array(expected) - found) / scatter).sum())

    ends = missing(0), missing(1)
    if ends[0] * ends[1] >= 0:
        return 0.0 if abs(ends[0]) < abs(ends[1]) else 1.0
    return float(brentq(missing, 0, 1))


def _fnmr_shares(photos: _Photos, thresholds: Scores, rng: np.random.Generator) -> tuple[float, ...]:
    """By the number of photos, from 1."""
    shares = [1.0]
    for size in MISSED_SIZES:
        persons = np.flatnonzero(photos.counts > size)
        mean, one = [], []  # persons missed by the mean, and by one of the same photos
        # As often as any of the photos can be the probe.
        for _ in range(MOST_PHOTOS if len(persons) else 0):
            drawn = photos.drawn(persons, size + 1, rng)
            probes, enrolled = photos.vectors[drawn[:, 0]], photos.vectors[drawn[:, 1:]]
            to_mean = (photos.means(drawn[:, 1:]) * probes).sum(axis=1)
            to_one = (enrolled * probes[:, None]).sum(axis=2)
            mean.append((to_mean[:, None] < thresholds).sum() / len(thresholds))
            one.append((to_one[:, :, None] < thresholds).mean(axis=1).sum() / len(thresholds))
        if not mean:
            break
        share = (float(np.mean(mean)) + UNSEEN) / (float(np.mean(one)) + UNSEEN)
        shares.append(min(share, shares[-1]))
    return tuple(shares)
