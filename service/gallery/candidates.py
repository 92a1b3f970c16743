"""Who a probe may be: what a scan of a segment found, with the names that the store has for it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.gallery.records import FaceRecord, PersonRecord
from service.gallery.segment import Hit, Segment

# Of faces, by their keys, the person and the face; those that are gone are left out.
Owners = Callable[[Iterable[int]], Mapping[int, tuple[PersonRecord, FaceRecord]]]


@dataclass(frozen=True)
class Candidate:
    """A person who may be the probe's.

    Attributes:
        face_id: the person's face that is most like the probe.
        similarity: the cosine of the probe and the person's template, the mean of the faces.
    """

    person: PersonRecord
    face_id: str
    similarity: float
    rank: int


class NamedSegment:
    """A segment whose hits are given out as candidates. Probes that share a scan share the question to the store."""

    def __init__(self, segment: Segment, owners: Owners) -> None:
        self._segment, self._owners = segment, owners

    def search(
        self, probes: NDArray[np.float32], top_k: int, persons: NDArray[np.int64] | None
    ) -> list[list[Candidate]]:
        """As ``Segment.search``. Whoever was deleted since the scan is no candidate."""
        found = self._segment.search(probes, top_k, persons)
        known = self._owners(sorted({hit.face for hits in found for hit in hits}))
        return [_candidates(hits, known) for hits in found]


def _candidates(hits: list[Hit], known: Mapping[int, tuple[PersonRecord, FaceRecord]]) -> list[Candidate]:
    alive = [(*known[hit.face], hit.similarity) for hit in hits if hit.face in known]
    return [
        Candidate(person, face.id, similarity, rank) for rank, (person, face, similarity) in enumerate(alive, start=1)
    ]
