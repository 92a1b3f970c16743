"""What the gallery doctor says; see ``docs/doctor.md``."""

from typing import Annotated

from pydantic import BaseModel, Field

from service.decision.curve import Interval


class DuplicateOut(BaseModel):
    """Two persons who are probably one, and their most similar faces."""

    person_ids: tuple[str, str]
    face_ids: tuple[str, str]
    similarity: float
    excess: Annotated[float, Field(description="how far they stand out from what both have with others")]


class NearestOut(BaseModel):
    person_id: str
    face_id: str


class MislabelledOut(BaseModel):
    """A face that is nearer to another person than to its own."""

    person_id: str
    face_id: str
    nearer_to: NearestOut
    own_similarity: float
    similarity: float


class PoorPersonOut(BaseModel):
    """None of the faces is good enough for ``quality=enrol``."""

    person_id: str
    faces: int
    reasons: list[str]


class ImpostorScoresOut(BaseModel):
    """How often two different persons reach a threshold, in the calibration and in this gallery."""

    threshold: float
    calibration_fmr: float
    gallery_fmr: float
    gallery_fmr_interval: Interval
    errors: Annotated[float, Field(description="effective number of false matches that the rate rests on")]


class ExpectedFpirOut(BaseModel):
    """What to expect where ``asked`` is asked for, now and with ``grown`` times as many persons."""

    asked: float
    threshold: float
    expected: float | None
    grown: int
    expected_grown_same_threshold: float | None
    threshold_grown: float
    expected_grown: float | None


class GalleryReport(BaseModel):
    gallery: str
    persons: int
    faces: int
    calibration_id: str
    duplicates: list[DuplicateOut]
    mislabelled: list[MislabelledOut]
    poor_persons: list[PoorPersonOut]
    impostor_scores: list[ImpostorScoresOut]
    expected_fpir: list[ExpectedFpirOut]
