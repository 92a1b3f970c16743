"""What the gallery doctor says; docs/doctor.md explains it."""

from dataclasses import dataclass

from likeness.results import Interval


@dataclass(frozen=True)
class Duplicate:
    """Two persons who are probably one, and their most similar faces."""

    person_ids: tuple[str, str]
    face_ids: tuple[str, str]
    similarity: float
    excess: float


@dataclass(frozen=True)
class Nearest:
    person_id: str
    face_id: str


@dataclass(frozen=True)
class Mislabelled:
    """A face that is nearer to another person than to its own."""

    person_id: str
    face_id: str
    nearer_to: Nearest
    own_similarity: float
    similarity: float


@dataclass(frozen=True)
class PoorPerson:
    """None of the faces is good enough for ``quality="enrol"``."""

    person_id: str
    faces: int
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class ImpostorScores:
    """How often two different persons reach a threshold, in the calibration and in this gallery."""

    threshold: float
    calibration_fmr: float
    gallery_fmr: float
    gallery_fmr_interval: Interval
    errors: float


@dataclass(frozen=True)
class ExpectedFpir:
    """What to expect where ``asked`` is asked for, now and with ``grown`` times as many persons."""

    asked: float
    threshold: float
    expected: float | None
    grown: int
    expected_grown_same_threshold: float | None
    threshold_grown: float
    expected_grown: float | None


@dataclass(frozen=True)
class GalleryReport:
    gallery: str
    persons: int
    faces: int
    calibration_id: str
    duplicates: tuple[Duplicate, ...]
    mislabelled: tuple[Mislabelled, ...]
    poor_persons: tuple[PoorPerson, ...]
    impostor_scores: tuple[ImpostorScores, ...]
    expected_fpir: tuple[ExpectedFpir, ...]
