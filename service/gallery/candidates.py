"""Who a probe may be: what a scan of a segment found, with the names that the store has for it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.gallery.records import FaceRecord, PersonRecord
from service.gallery.segment import Hit, Segment

# By keys of faces, or of persons, the person and a face; those that are gone are left out.
Owners = Mapping[int, tuple[PersonRecord, FaceRecord]]
AskedFor = Callable[[Iterable[int]], Owners]


@dataclass(frozen=True)
class Candidate:
    """A person who may be the probe's.

    Attributes:
        face_id: the person's face that is most like the probe; another one, should that be deleted at this moment.
        similarity: the cosine of the probe and the person's template, the mean of the faces.
    """

    person: PersonRecord
    face_id: str
    similarity: float
    rank: int


class NamedSegment:
    """A segment whose hits are given out as candidates. Probes that share a scan share the question to the store."""

    def __init__(self, segment: Segment, owners: AskedFor, first_faces: AskedFor) -> None:
        """``owners``, ``first_faces``: those of the ``Store``."""
        self._segment, self._owners, self._first_faces = segment, owners, first_faces

    def search(
        self, probes: NDArray[np.float32], top_k: int, persons: NDArray[np.int64] | None
    ) -> list[list[Candidate]]:
        """As ``Segment.search``. Whoever was deleted since the scan is no candidate; who has lost a face only still is.

        A face is gone from the store before it is from the segment.
        """
        found = self._segment.search(probes, top_k, persons)
        known = self._owners(sorted({hit.face for hits in found for hit in hits}))
        doubtful = sorted({hit.person for hits in found for hit in hits if hit.face not in known})
        others = self._first_faces(doubtful) if doubtful else {}
        return [candidates_of(hits, known, others) for hits in found]


def candidates_of(hits: list[Hit], known: Owners, others: Owners) -> list[Candidate]:
    """Hits with their names. ``known``: by face. ``others``: by person, where the face is gone."""
    owners = [(known.get(hit.face) or others.get(hit.person), hit.similarity) for hit in hits]
    alive = [(*owner, similarity) for owner, similarity in owners if owner]
    return [
        Candidate(person, face.id, similarity, rank) for rank, (person, face, similarity) in enumerate(alive, start=1)
    ]
