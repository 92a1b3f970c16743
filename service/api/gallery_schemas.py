"""Requests and answers about galleries, persons, faces and searches."""

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

import pydantic_core
from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)

from service.api.bodies import Photo, RequestBody
from service.api.schemas import Box, CompareAnswer, Extrapolate, Fmr, RawThreshold
from service.decision.curve import Interval
from service.decision.quality_policy import QualityPolicy
from service.decision.searches import SearchPoint, Wanted
from service.decision.two_spaces import Rule
from service.engine import Comparison
from service.gallery.records import FaceRecord, GalleryRecord, PersonRecord
from service.identification import Ranked
from service.recognition.select import FacePolicy, OneFacePolicy

Text = Annotated[str, Field(max_length=1000)]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,128}$")]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=100)], StrictStr | StrictBool | StrictInt | StrictFloat],
    Field(max_length=100),
]
MOST_PHOTOS = 32


def _from_text(value: object) -> object:
    """In multipart an object comes as JSON text."""
    return pydantic_core.from_json(value, allow_inf_nan=False) if isinstance(value, str) else value


def _time(value: object) -> object:
    """JSON has no dates but text."""
    return datetime.fromisoformat(value) if isinstance(value, str) else value


Filter = Annotated[Metadata, BeforeValidator(_from_text)]
Time = Annotated[AwareDatetime, BeforeValidator(_time)] | None
Vector = Annotated[list[float], Field(min_length=1, max_length=8192)]


class GalleryPut(RequestBody):
    name: Text | None = None
    description: Text | None = None
    retention_days: (
        Annotated[int, Field(ge=1, le=36_500, description="persons are erased so long after they were made")] | None
    ) = None


class PersonPut(RequestBody):
    name: Text | None = None
    metadata: Metadata = Field(default_factory=dict)
    expires_at: Time = None


class PersonPatch(RequestBody):
    """Only the fields that are sent are changed; metadata is replaced as a whole."""

    name: Text | None = None
    metadata: Metadata = Field(default_factory=dict)
    expires_at: Time = None


class TemplateIn(RequestBody):
    embedding: Vector
    face_id: Id | None = None


class EnrolRequest(RequestBody):
    """Photos, or templates made elsewhere under the same contract."""

    repeated: ClassVar[frozenset[str]] = frozenset({"images", "face_ids"})
    json_only: ClassVar[frozenset[str]] = frozenset({"embeddings", "embedding_contract"})
    photos: ClassVar[int] = 1

    images: Annotated[list[Photo], Field(min_length=1, max_length=MOST_PHOTOS)] | None = None
    faces: OneFacePolicy = "single"
    quality: QualityPolicy = "enrol"
    face_ids: Annotated[list[Id], Field(max_length=MOST_PHOTOS)] | None = None
    embeddings: Annotated[list[TemplateIn], Field(min_length=1, max_length=1000)] | None = None
    embedding_contract: Annotated[str, Field(max_length=256)] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> "EnrolRequest":
        if (self.images is None) == (self.embeddings is None):
            raise ValueError("give images or embeddings, one of the two")
        if self.embeddings is not None and self.embedding_contract is None:
            raise ValueError("embeddings need their embedding_contract")
        if self.images is not None and self.face_ids is not None and len(self.face_ids) != len(self.images):
            raise ValueError(f"{len(self.face_ids)} face_ids for {len(self.images)} images")
        return self


class _Searched(RequestBody):
    fpir: Annotated[float, Field(gt=0, lt=1, description="rate of searches that identify a stranger")] | None = None
    fmr: Fmr | None = None
    threshold: RawThreshold | None = None
    extrapolate: Extrapolate = False

    @property
    def wanted(self) -> Wanted:
        return Wanted(self.fpir, self.fmr, self.threshold, self.extrapolate)


class SearchRequest(_Searched):
    """A photo, or an embedding made elsewhere under the same contract."""

    json_only: ClassVar[frozenset[str]] = frozenset({"embedding", "embedding_contract"})

    photos: ClassVar[int] = 1

    image: Photo | None = None
    faces: FacePolicy = "single"
    quality: QualityPolicy = "off"
    embedding: Vector | None = None
    embedding_contract: Annotated[str, Field(max_length=256)] | None = None
    top_k: Annotated[int, Field(ge=1, le=100)] = 5
    filter: Filter | None = None
    candidates: Literal["all", "above_threshold"] = "all"
    exact: Annotated[bool, Field(description="compare with everybody, also where there is an index for speed")] = False

    @model_validator(mode="after")
    def _one_kind(self) -> "SearchRequest":
        if (self.image is None) == (self.embedding is None):
            raise ValueError("give image or embedding, one of the two")
        if self.embedding is not None and self.embedding_contract is None:
            raise ValueError("an embedding needs its embedding_contract")
        return self


class VerifyPersonRequest(RequestBody):
    photos: ClassVar[int] = 1

    image: Photo
    faces: OneFacePolicy = "single"
    quality: QualityPolicy = "off"
    fmr: Fmr | None = None
    threshold: RawThreshold | None = None
    extrapolate: Extrapolate = False


class GalleryOut(BaseModel):
    id: str
    name: str | None
    description: str | None
    embedding_contract: str
    persons: int
    faces: int
    created_at: datetime
    retention_days: int | None

    @classmethod
    def of(cls, record: GalleryRecord) -> "GalleryOut":
        return cls.model_validate(record, from_attributes=True)


class PersonOut(BaseModel):
    id: str
    name: str | None
    metadata: dict[str, Any]
    expires_at: datetime | None
    faces: int
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, record: PersonRecord) -> "PersonOut":
        return cls.model_validate(record, from_attributes=True)


class FaceRecordOut(BaseModel):
    face_id: str
    box: Box | None = None
    quality: dict[str, float] | None = None
    created_at: datetime

    @classmethod
    def of(cls, record: FaceRecord) -> "FaceRecordOut":
        return cls.model_validate({"face_id": record.id, "created_at": record.created_at, **record.facts})


class Erased(BaseModel):
    """What an erasure is proved with, on request (``Prefer: return=representation``)."""

    erased: dict[str, str]
    at: str
    receipt: Annotated[str, Field(description="number and mac of its line in the audit log")]


class GalleryPage(BaseModel):
    galleries: list[GalleryOut]
    cursor: str | None


class PersonPage(BaseModel):
    persons: list[PersonOut]
    cursor: str | None


class FacePage(BaseModel):
    faces: list[FaceRecordOut]
    cursor: str | None


class EnrolledFace(BaseModel):
    face_id: str
    image_index: int | None = None
    box: Box | None = None
    quality: dict[str, float] | None = None


class RejectedPhoto(BaseModel):
    image_index: int
    code: str
    message: str


class EnrolAnswer(BaseModel):
    enrolled: list[EnrolledFace]
    rejected: list[RejectedPhoto]


class GallerySize(BaseModel):
    persons: int
    faces: int


class VerifyPersonAnswer(CompareAnswer):
    embedding_contract: Annotated[str, Field(description="under which the person was compared")]

    @classmethod
    def of_person(cls, comparison: Comparison, contract: str) -> "VerifyPersonAnswer":
        return cls(**CompareAnswer.of(comparison).model_dump(), embedding_contract=contract)


class SearchPointOut(BaseModel):
    threshold: float
    fmr: float | None
    fpir: float | None
    calibration_id: str | None
    fnir: Annotated[float | None, Field(description="rate of searches that miss a person who is enrolled")]
    fmr_interval: Interval | None
    fpir_interval: Interval | None
    extrapolated: Annotated[bool, Field(description="the rates follow from a fitted tail, not from counts")]

    @classmethod
    def of(cls, point: SearchPoint) -> "SearchPointOut":
        return cls(**vars(point))


class SpaceOut(BaseModel):
    """How the persons are decided on who are compared under one contract, while a gallery is moved to another."""

    embedding_contract: str
    persons: Annotated[int, Field(description="who were compared under it")]
    operating_point: SearchPointOut

    @classmethod
    def of(cls, rule: Rule) -> "SpaceOut":
        return cls(
            embedding_contract=rule.part.contract,
            persons=rule.part.persons,
            operating_point=SearchPointOut.of(rule.point),
        )


class CandidateOut(BaseModel):
    person_id: str
    face_id: Annotated[str, Field(description="of the person's faces, the one most similar to the probe")]
    name: str | None
    similarity: Annotated[float, Field(description="cosine of the probe and the mean of the person's faces")]
    rank: int
    embedding_contract: Annotated[str, Field(description="of the embeddings that the similarity is of")]
    fmr: Annotated[
        float | None,
        Field(description="how often a stranger is as similar; only while the gallery is moved to another bundle"),
    ] = None

    @classmethod
    def of(cls, ranked: Ranked) -> "CandidateOut":
        found = ranked.found
        return cls(
            person_id=found.person.id,
            face_id=found.face_id,
            name=found.person.name,
            similarity=found.similarity,
            rank=ranked.rank,
            embedding_contract=ranked.contract,
            fmr=ranked.fmr,
        )


class ProbeOut(BaseModel):
    box: Box | None
    decision: Literal["identified", "unknown"]
    margin: Annotated[
        float | None,
        Field(description="similarity of the first candidate less that of the second, both of one contract"),
    ]
    ambiguous: Annotated[bool, Field(description="two persons reach the threshold and are close together")]
    candidates: list[CandidateOut]


class SearchAnswer(BaseModel):
    gallery: str
    gallery_size: GallerySize
    operating_point: SearchPointOut
    spaces: Annotated[
        list[SpaceOut] | None,
        Field(
            description="while the gallery is moved to another bundle: those in which somebody was compared; threshold "
            "and fmr of operating_point are those of the first, fpir and fnir of all together"
        ),
    ] = None
    probes: list[ProbeOut]
