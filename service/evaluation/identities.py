"""Verification on a folder with one sub-folder for each person: all pairs of its photos, not only listed ones."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.evaluation.comparisons import Comparisons, all_pairs
from service.evaluation.operating_points import count_pairs
from service.evaluation.photos import EmbedPhoto, PhotoSet, embed_photos, persons_of


@dataclass(frozen=True, eq=False)
class FolderResult:
    """What embedding the photos of a folder gave; every figure is derived from it.

    Attributes:
        name: of the folder.
        photos: all of them.
        persons: (p,) int64, belongs to the photos: the same number for photos of one person.
        sha256: of the photos' names and contents.
    """

    name: str
    photos: PhotoSet
    persons: NDArray[np.int64]
    sha256: str

    @cached_property
    def comparisons(self) -> Comparisons:
        """All pairs."""
        return all_pairs(self.photos, self.persons)


def evaluate_folder(embed_photo: EmbedPhoto, images: Path, names: Sequence[str], workers: int) -> FolderResult:
    """Embed each photo once, in ``workers`` threads.

    A photo without a usable face, or that cannot be decoded, is kept as undetected: its pairs count, as not accepted.

    Args:
        names: ``Person/photo.jpg``, relative to the folder ``images``.

    Raises:
        InvalidRequest: there is no pair of one person, or none of two; or a photo cannot be read.
    """
    persons = persons_of(names)[1]
    count_pairs(persons)
    photos = embed_photos(embed_photo, images, names, workers)
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{hashlib.sha256((images / name).read_bytes()).hexdigest()}  {name}\n".encode())
    return FolderResult(images.resolve().name, photos, persons, digest.hexdigest())
