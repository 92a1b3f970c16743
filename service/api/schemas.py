"""What goes over the wire: request and answer models of the HTTP contract."""

import base64
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, Field, model_validator

from service.api.bodies import Photo, RequestBody
from service.decision.curve import Interval
from service.decision.quality_policy import QualityPolicy
from service.decision.thresholds import OperatingPoint
from service.engine import Comparison, FoundFace, Subject
from service.recognition.select import FacePolicy, OneFacePolicy, box_details
from service.recognition.types import EmbeddedFace
from service.runtime.card import Calibration, Card

Fmr = Annotated[float, Field(gt=0, lt=1, description="false match rate; the threshold follows from the calibration")]
Extrapolate = Annotated[
    bool, Field(description="below the rates that the calibration data can speak about, answer from a fitted tail")
]
RawThreshold = Annotated[float, Field(ge=-1, le=1, description="raw cosine; at most one of fmr and threshold")]


class DetectRequest(RequestBody):
    photos: ClassVar[int] = 1

    image: Photo
    max_faces: Annotated[int, Field(ge=1, le=10_000)] | None = None


class EmbedRequest(RequestBody):
    photos: ClassVar[int] = 1

    image: Photo
    faces: FacePolicy = "single"
    encoding: Literal["float", "base64"] = "float"


class _Decided(RequestBody):
    fmr: Fmr | None = None
    threshold: RawThreshold | None = None
    extrapolate: Extrapolate = False

    @model_validator(mode="after")
    def _at_most_one(self) -> "_Decided":
        if self.fmr is not None and self.threshold is not None:
            raise ValueError("give fmr or threshold, not both")
        return self


class VerifyRequest(_Decided):
    photos: ClassVar[int] = 2

    image_a: Photo
    image_b: Photo
    faces: OneFacePolicy = "single"
    quality: QualityPolicy = "off"


class CompareRequest(_Decided):
    a: Annotated[list[float], Field(min_length=1, max_length=8192)]
    b: Annotated[list[float], Field(min_length=1, max_length=8192)]
    embedding_contract: Annotated[str, Field(max_length=256)]


class Box(BaseModel):
    """In pixels of the upright image; may reach outside it."""

    x: float
    y: float
    width: float
    height: float


class QualityOut(BaseModel):
    """Measures of one face; see ``docs/api.md``."""

    inter_eye_distance: float
    roll_degrees: float
    yaw_degrees: float
    pitch_degrees: float
    brightness: float
    contrast: float
    clipped: float
    sharpness: float
    detection_score: float
    feature_norm: float | None = None


class FaceOut(BaseModel):
    box: Box
    landmarks: Annotated[
        list[tuple[float, float]],
        Field(description="left eye, right eye, nose tip, left and right mouth corner, as seen by the viewer"),
    ]
    detection_score: float
    quality: QualityOut

    @classmethod
    def of(cls, found: FoundFace) -> "FaceOut":
        return cls(**_face_fields(found))


class EmbeddedFaceOut(FaceOut):
    embedding: Annotated[list[float] | str, Field(description="unit length; base64 is little-endian float32")]
    feature_norm: float

    @classmethod
    def embedded(cls, found: FoundFace, embedded: EmbeddedFace, encoding: str) -> "EmbeddedFaceOut":
        vector = embedded.embedding
        sent = base64.b64encode(vector.astype("<f4").tobytes()).decode() if encoding == "base64" else vector.tolist()
        return cls(**_face_fields(found), embedding=sent, feature_norm=embedded.feature_norm)


def _face_fields(found: FoundFace) -> dict[str, Any]:
    face = found.face
    return {
        "box": box_details(face),
        "landmarks": [(float(x), float(y)) for x, y in np.round(face.landmarks.astype(np.float64), 2)],
        "detection_score": round(face.score, 4),
        "quality": found.quality.details(),
    }


class ImageSize(BaseModel):
    width: int
    height: int


class DetectAnswer(BaseModel):
    image: ImageSize
    faces: list[FaceOut]


class EmbedAnswer(BaseModel):
    embedding_contract: str
    faces: list[EmbeddedFaceOut]


class OperatingPointOut(BaseModel):
    """A match is ``similarity >= threshold``; rates are null where the calibration cannot say."""

    threshold: float
    fmr: float | None
    fnmr: float | None
    calibration_id: str | None
    fmr_interval: Interval | None
    fnmr_interval: Interval | None
    extrapolated: Annotated[bool, Field(description="the rates follow from a fitted tail, not from counts")]

    @classmethod
    def of(cls, point: OperatingPoint) -> "OperatingPointOut":
        return cls(**vars(point))


class CompareAnswer(BaseModel):
    match: bool
    similarity: Annotated[float, Field(ge=-1, le=1)]
    operating_point: OperatingPointOut

    @classmethod
    def of(cls, comparison: Comparison) -> "CompareAnswer":
        return cls(**_compared(comparison))


def _compared(comparison: Comparison) -> dict[str, Any]:
    """The part that verify and compare share."""
    return {
        "match": comparison.match,
        "similarity": comparison.similarity,
        "operating_point": OperatingPointOut.of(comparison.point),
    }


class VerifyAnswer(CompareAnswer):
    face_a: FaceOut
    face_b: FaceOut
    faces_found: Annotated[list[int], Field(description="faces detected in image_a and image_b")]

    @classmethod
    def verified(cls, comparison: Comparison, a: Subject, b: Subject) -> "VerifyAnswer":
        return cls(
            **_compared(comparison),
            face_a=FaceOut.of(a.found),
            face_b=FaceOut.of(b.found),
            faces_found=[a.faces_found, b.faces_found],
        )


class Health(BaseModel):
    status: Literal["live", "ready"]


class BundleOut(BaseModel):
    name: str
    version: str
    licence: str
    commercial_use: bool


class LoadedBundleOut(BundleOut):
    """A bundle that serves the galleries of its contract."""

    embedding_contract: str
    embedding_dimension: int
    calibration_id: str | None

    @classmethod
    def of(cls, card: Card) -> "LoadedBundleOut":
        return cls(
            name=card.name,
            version=card.version,
            licence=card.licence.spdx,
            commercial_use=card.licence.commercial_use,
            embedding_contract=card.embedding_contract,
            embedding_dimension=card.contract.dimension,
            calibration_id=card.calibration.calibration_id if card.calibration else None,
        )


class AlignmentOut(BaseModel):
    """What the embedder sees of a face: the similarity transform that brings the five landmarks closest to these."""

    size: Annotated[int, Field(description="side of the crop in pixels")]
    template: Annotated[
        list[tuple[float, float]], Field(description="where the landmarks come to lie in it, in their order")
    ]


class ProviderOut(BaseModel):
    """What the networks really run on, as ONNX Runtime names it."""

    detector: str
    embedder: str


class CalibrationOut(BaseModel):
    """What the error rates rest on. Rates below ``smallest_fmr`` are refused unless ``extrapolate=true``."""

    calibration_id: str
    dataset: str
    dataset_sha256: str
    persons: int
    photos: int
    genuine: int
    impostor: int
    effective_impostor: float | None
    smallest_fmr: float
    smallest_extrapolated_fmr: float | None

    @classmethod
    def of(cls, calibration: Calibration) -> "CalibrationOut":
        fields: dict[str, Any] = {name: getattr(calibration, name, None) for name in cls.model_fields}
        tail = calibration.tail.points if calibration.tail else ()
        ends = {
            "smallest_fmr": calibration.points[-1].fmr,
            "smallest_extrapolated_fmr": tail[-1].fmr if tail else None,
        }
        return cls(**{**fields, **ends})


class Limits(BaseModel):
    max_body_bytes: int
    max_pixels: int
    min_face_size: float
    media_types: list[str]


class SearchOut(BaseModel):
    """``exact``: every search gives the same candidates as comparing the probe with every enrolled face. ``indexed``:
    large galleries are searched through an index, which may miss a candidate, unless a search asks for ``exact``."""

    mode: Literal["exact", "indexed"]
    device: str


class InfoAnswer(BaseModel):
    version: str
    bundle: BundleOut
    bundles: Annotated[list[LoadedBundleOut], Field(description="all that are loaded, the default one first")]
    embedding_contract: str
    embedding_dimension: int
    alignment: AlignmentOut
    provider: ProviderOut
    operating_points: list[OperatingPointOut]
    calibration: CalibrationOut | None
    limits: Limits
    gallery_backend: str | None
    search: SearchOut | None


class ErrorBody(BaseModel):
    code: str
    message: str
    details: dict[str, object]


class ErrorAnswer(BaseModel):
    error: ErrorBody
    request_id: str
