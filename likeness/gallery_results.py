"""What calls about galleries, persons, faces and searches answer with. All of it is frozen."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from likeness.parsing import Vector
from likeness.results import Box, Interval

Metadata = Mapping[str, str | bool | int | float]


@dataclass(frozen=True)
class Gallery:
    """``persons`` and ``faces`` are how many it holds. Persons are erased ``retention_days`` after they were made."""

    id: str
    name: str | None
    description: str | None
    embedding_contract: str
    persons: int
    faces: int
    created_at: datetime
    retention_days: int | None = None


@dataclass(frozen=True)
class Person:
    """``faces`` is how many are enrolled. Past ``expires_at`` the person is erased."""

    id: str
    name: str | None
    metadata: Metadata
    expires_at: datetime | None
    faces: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class FaceRecord:
    """An enrolled face; one that came as an embedding has neither box nor quality."""

    face_id: str
    created_at: datetime
    box: Box | None = None
    quality: Mapping[str, float] | None = None


@dataclass(frozen=True)
class EnrolledFace:
    """``image_index`` is the place of its photo in the call; None for one that came as an embedding."""

    face_id: str
    image_index: int | None = None
    box: Box | None = None
    quality: Mapping[str, float] | None = None


@dataclass(frozen=True)
class RejectedPhoto:
    """A photo that was not enrolled; ``code`` is that of an error, such as ``face_not_found``."""

    image_index: int
    code: str
    message: str


@dataclass(frozen=True)
class Enrolment:
    """Each photo is in one of the two."""

    enrolled: tuple[EnrolledFace, ...]
    rejected: tuple[RejectedPhoto, ...] = ()


@dataclass(frozen=True)
class Erasure:
    """A deletion that is durable. ``receipt`` is number and MAC of its line in the audit log, and None where the
    service keeps none."""

    receipt: str | None = None
    at: datetime | None = None


@dataclass(frozen=True)
class GallerySize:
    persons: int
    faces: int


@dataclass(frozen=True)
class SearchPoint:
    """The threshold of a search. ``fpir``: how often a stranger is identified; ``fnir``: how often an enrolled person
    is missed."""

    threshold: float
    fmr: float | None = None
    fpir: float | None = None
    calibration_id: str | None = None
    fnir: float | None = None
    fmr_interval: Interval | None = None
    fpir_interval: Interval | None = None
    extrapolated: bool = False


@dataclass(frozen=True)
class Candidate:
    """A person, by the mean of their faces; ``face_id`` is the most similar of these. ``similarity`` is one of
    embeddings of ``embedding_contract``; ``fmr``, how often a stranger is as similar, is told while the gallery is
    moved to another bundle."""

    person_id: str
    face_id: str
    name: str | None
    similarity: float
    rank: int
    embedding_contract: str | None = None
    fmr: float | None = None


@dataclass(frozen=True)
class Probe:
    """What a search says of one face. ``ambiguous``: two persons reach the threshold and are close together."""

    box: Box | None
    decision: Literal["identified", "unknown"]
    margin: float | None
    ambiguous: bool
    candidates: tuple[Candidate, ...]

    @property
    def identified(self) -> Candidate | None:
        """Who it is; None: nobody known."""
        return self.candidates[0] if self.decision == "identified" else None


@dataclass(frozen=True)
class SearchedSpace:
    """Who was compared under one contract, while the gallery is moved to another bundle."""

    embedding_contract: str
    persons: int
    operating_point: SearchPoint


@dataclass(frozen=True)
class Search:
    """One entry in ``probes`` for each face that was searched. ``spaces``: while the gallery is moved to another
    bundle."""

    gallery: str
    gallery_size: GallerySize
    operating_point: SearchPoint
    probes: tuple[Probe, ...]
    spaces: tuple[SearchedSpace, ...] | None = None


@dataclass(frozen=True)
class BulkFace:
    """An enrolled face with its template, on its way out of a gallery or into one."""

    face_id: str
    embedding: Vector
    created_at: datetime | None = None
    box: Box | None = None
    quality: Mapping[str, float] | None = None


@dataclass(frozen=True)
class BulkPerson:
    """A person with all faces, on the way out of a gallery or into one."""

    person_id: str
    name: str | None = None
    metadata: Metadata = field(default_factory=dict)
    expires_at: datetime | None = None
    created_at: datetime | None = None
    faces: tuple[BulkFace, ...] = ()


@dataclass(frozen=True)
class PersonCounts:
    """``updated``: were there, and got another name, metadata or expiry."""

    created: int
    updated: int


@dataclass(frozen=True)
class FaceCounts:
    created: int
    present: int


@dataclass(frozen=True)
class Imported:
    persons: PersonCounts
    faces: FaceCounts
