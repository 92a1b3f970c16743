"""Persons with their templates, on their way out of a gallery and into one: one shape for both directions."""

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, model_validator

from service.api.bodies import RequestBody
from service.api.gallery_schemas import Id, Metadata, Text, Time
from service.api.schemas import Box
from service.engine import UNIT_TOLERANCE
from service.errors import InvalidRequest
from service.gallery.records import GalleryRecord, Page
from service.gallery.store_bulk import BulkFace, BulkPerson, Imported

# A page of an export ends when it would have more faces, an import is refused.
MOST_FACES_OUT, MOST_FACES_IN, MOST_PERSONS_IN = 1000, 10_000, 10_000
# Networks compute in float32, so their embeddings are this near to unit length. They are kept to the last bit.
ROUNDING = 1e-5


class BulkFaceBody(RequestBody):
    face_id: Id
    embedding: Annotated[str, Field(max_length=50_000, description="base64 of little-endian float32, unit length")]
    created_at: Time = None
    box: Box | None = None
    quality: Annotated[dict[str, float], Field(max_length=100)] | None = None

    @classmethod
    def of(cls, face: BulkFace) -> "BulkFaceBody":
        sent = base64.b64encode(face.embedding.astype("<f4").tobytes()).decode()
        return cls.model_validate({"face_id": face.id, "embedding": sent, "created_at": face.created_at, **face.facts})

    def face(self, embedding: NDArray[np.float32]) -> BulkFace:
        facts = self.model_dump(include={"box", "quality"}, exclude_none=True)
        return BulkFace(self.face_id, embedding, facts, self.created_at)


class BulkPersonBody(RequestBody):
    person_id: Id
    name: Text | None = None
    metadata: Metadata = Field(default_factory=dict)
    expires_at: Time = None
    created_at: Time = None
    faces: list[BulkFaceBody] = Field(default_factory=list)

    @classmethod
    def of(cls, person: BulkPerson) -> "BulkPersonBody":
        return cls(
            person_id=person.id,
            name=person.name,
            metadata=dict(person.metadata),
            expires_at=person.expires_at,
            created_at=person.created_at,
            faces=[BulkFaceBody.of(face) for face in person.faces],
        )


class ExportPage(BaseModel):
    gallery: str
    embedding_contract: str
    embedding_dimension: int
    persons: list[BulkPersonBody]
    cursor: str | None

    @classmethod
    def of(cls, record: GalleryRecord, page: Page[BulkPerson]) -> "ExportPage":
        return cls(
            gallery=record.id,
            embedding_contract=record.embedding_contract,
            embedding_dimension=record.dimension,
            persons=[BulkPersonBody.of(person) for person in page.items],
            cursor=page.cursor,
        )


class ImportRequest(RequestBody):
    embedding_contract: Annotated[str, Field(max_length=256)]
    persons: Annotated[list[BulkPersonBody], Field(max_length=MOST_PERSONS_IN)]

    @model_validator(mode="after")
    def _bounded(self) -> "ImportRequest":
        count = sum(len(person.faces) for person in self.persons)
        if count > MOST_FACES_IN:
            raise ValueError(f"{count:,} faces; at most {MOST_FACES_IN:,} are taken in one call, send them in several")
        return self

    def bulk(self, dimension: int) -> list[BulkPerson]:
        """The persons with their templates checked.

        Raises:
            InvalidRequest: an embedding that is not base64 of ``dimension`` float32 numbers, or not of unit length.
        """
        places = [
            f"persons[{i}].faces[{j}].embedding"
            for i, person in enumerate(self.persons)
            for j in range(len(person.faces))
        ]
        sent = [face.embedding for person in self.persons for face in person.faces]
        embeddings = iter(_embeddings(places, sent, dimension))
        return [
            BulkPerson(
                person.person_id,
                person.name,
                person.metadata,
                person.expires_at,
                person.created_at,
                tuple(face.face(next(embeddings)) for face in person.faces),
            )
            for person in self.persons
        ]


class PersonCounts(BaseModel):
    created: int
    updated: Annotated[int, Field(description="persons who were there and whose name, metadata or expiry changed")]


class FaceCounts(BaseModel):
    created: int
    present: Annotated[int, Field(description="faces that were there already")]


class ImportAnswer(BaseModel):
    persons: PersonCounts
    faces: FaceCounts

    @classmethod
    def of(cls, done: Imported) -> "ImportAnswer":
        return cls(
            persons=PersonCounts(created=done.persons_created, updated=done.persons_updated),
            faces=FaceCounts(created=len(done.added.faces), present=done.faces_present),
        )


def _embeddings(places: Sequence[str], sent: Sequence[str], dimension: int) -> NDArray[np.float32]:
    """Float32 (n, d) of unit length; what is off by more than rounding is normalised, the rest kept to the bit."""
    decoded = [_decoded(place, text, dimension) for place, text in zip(places, sent, strict=True)]
    vectors = np.frombuffer(b"".join(decoded), "<f4").astype(np.float32).reshape(len(decoded), dimension)
    with np.errstate(invalid="ignore"):  # signalling NaNs; their length is NaN too
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    wrong = np.flatnonzero(~(np.abs(lengths - 1) <= UNIT_TOLERANCE)).tolist()
    if wrong:
        place, length = places[wrong[0]], lengths[wrong[0]]
        raise InvalidRequest(f"{place} has length {length:.6g}; embeddings have unit length.", {"field": place})
    off = np.abs(lengths - 1) > ROUNDING
    vectors[off] = vectors[off] / lengths[off, None]
    return vectors


def _decoded(place: str, text: str, dimension: int) -> bytes:
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"{place} is not base64: {error}", {"field": place}) from error
    if len(content) != 4 * dimension:
        raise InvalidRequest(
            f"{place} has {len(content)} bytes; embeddings of this bundle have {dimension} float32 numbers, "
            f"{4 * dimension} bytes.",
            {"field": place, "dimension": dimension},
        )
    return content
