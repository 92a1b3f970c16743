"""Identification on Labeled Faces in the Wild: who is enrolled, who is searched for, what the searches returned.

The first photo of each person is enrolled, every other one searched. The closed set has all persons in its gallery.
For the open set a random half of the persons is left out, and all their photos are searched as strangers'; several
halves show how much the choice matters. Nothing is removed, and labels are used as published. Other protocols on LFW
divide the photos otherwise, and their figures do not compare with these: Best-Rowden et al., "Unconstrained Face
Recognition: Identifying a Person of Interest from a Media Collection", IEEE TIFS 9(12), 2014; Liao et al., "A
Benchmark Study of Large-Scale Unconstrained Face Recognition" (BLUFR), IJCB 2014.

Searches go through the index that serves.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidRequest
from service.evaluation.photos import EmbedPhoto, PhotoSet, embed_photos, persons_of
from service.gallery.records import Templates
from service.gallery.segment import Segment
from service.progress import track

DEPTH = 100
HALVES = 10
SEED = 0
NOBODY = -1


@dataclass(frozen=True, eq=False)
class Searches:
    """Every photo that is not enrolled, searched in one gallery; five arrays (q,).

    Attributes:
        persons: how many are in the gallery, those whose photo has no face included: nothing of them is found.
        probes: int64, numbers of photos.
        mates: int64, the probe's person, or -1 where that person is not in the gallery.
        firsts: int64, the person at rank 1, or -1 where no search could be made.
        similarities: float64, that of rank 1, a cosine; ``-inf`` where no search could be made.
        ranks: int64, the mate's rank from 1 to ``depth``; 0 where it is not among so many candidates.
        depth: how many candidates were asked for.
    """

    persons: int
    probes: NDArray[np.int64]
    mates: NDArray[np.int64]
    firsts: NDArray[np.int64]
    similarities: NDArray[np.float64]
    ranks: NDArray[np.int64]
    depth: int

    @property
    def mated(self) -> NDArray[np.bool_]:
        """(q,) is the probe's person in the gallery?"""
        mated: NDArray[np.bool_] = self.mates != NOBODY
        return mated


@dataclass(frozen=True, eq=False)
class LfwSearchResult:
    """What running the protocol gave; every figure is derived from it.

    ``persons`` are the names that person numbers stand for; ``photos.names`` are sorted.
    """

    photos: PhotoSet
    persons: tuple[str, ...]
    closed: Searches
    halves: tuple[Searches, ...]


@dataclass(frozen=True, eq=False)
class _Plan:
    """``person_of`` (p,) int64 belongs to the photos, ``first_photo`` (n,) int64 to the persons."""

    names: tuple[str, ...]
    persons: tuple[str, ...]
    person_of: NDArray[np.int64]
    first_photo: NDArray[np.int64]

    def probes(self, enrolled: NDArray[np.int64]) -> NDArray[np.int64]:
        """All photos but those by which the persons ``enrolled`` are enrolled."""
        return np.setdiff1d(np.arange(len(self.names)), self.first_photo[enrolled])


def evaluate_lfw_search(embed_photo: EmbedPhoto, images: Path, workers: int) -> LfwSearchResult:
    """Embed each photo ``Person/*.jpg`` of the folder ``images`` once, in ``workers`` threads, and search.

    Raises:
        InvalidRequest: there are no photos, or too few persons or photos of them for both sets.
        FaceNotFound: not one photo has a face.
    """
    plan = _plan(images)
    halves = _random_halves(plan)
    photos = embed_photos(embed_photo, images, plan.names, workers)
    everyone = np.arange(len(plan.persons))
    closed = _search(photos, plan, everyone, min(DEPTH, len(everyone)))
    open_set = [_search(photos, plan, half, 1) for half in track(halves, "searching halves", HALVES, "half")]
    return LfwSearchResult(photos, plan.persons, closed, tuple(open_set))


def _plan(images: Path) -> _Plan:
    names = sorted(path.relative_to(images).as_posix() for path in images.glob("*/*.jpg"))
    if not names:
        raise InvalidRequest(f"there is no photo Name/Name_0001.jpg in {images}; give the folder of persons' folders")
    persons, person_of = persons_of(names)
    if len(persons) == len(names):
        raise InvalidRequest(
            f"none of the {len(persons)} persons in {images} has a second photo, so there is nothing to search for"
        )
    return _Plan(tuple(names), persons, person_of, np.unique(person_of, return_index=True)[1])


def _random_halves(plan: _Plan) -> list[NDArray[np.int64]]:
    """The persons enrolled in each gallery of the open set; one more than are left out, where their number is odd."""
    rng = np.random.default_rng(SEED)
    left_out = len(plan.persons) // 2
    halves = [np.sort(rng.permutation(len(plan.persons))[left_out:]) for _ in range(HALVES)]
    for half in halves:
        mated = np.isin(plan.person_of[plan.probes(half)], half)
        if mated.all() or not mated.any():
            raise InvalidRequest(
                f"with {left_out} of the {len(plan.persons)} persons left out at random, {mated.sum()} probes are of "
                f"somebody enrolled and {(~mated).sum()} of a stranger; give more persons with two photos"
            )
    return halves


def _search(photos: PhotoSet, plan: _Plan, enrolled: NDArray[np.int64], depth: int) -> Searches:
    segment = Segment(photos.embeddings.shape[1])
    faces = plan.first_photo[enrolled]
    usable = photos.detected[faces]
    segment.add(Templates(faces[usable], enrolled[usable], photos.embeddings[faces[usable]]))

    probes = plan.probes(enrolled)
    mates = np.where(np.isin(plan.person_of[probes], enrolled), plan.person_of[probes], NOBODY)
    firsts, ranks = np.full(len(probes), NOBODY), np.zeros(len(probes), np.int64)
    similarities = np.full(len(probes), -np.inf)
    searched = np.flatnonzero(photos.detected[probes])
    candidates = segment.search(photos.embeddings[probes[searched]], depth)
    for number, hits in zip(searched, candidates, strict=True):
        found = [hit.person for hit in hits]
        if hits:
            firsts[number], similarities[number] = found[0], hits[0].similarity
        if mates[number] in found:
            ranks[number] = 1 + found.index(mates[number])
    return Searches(len(enrolled), probes, mates, firsts, similarities, ranks, depth)
