"""Enrolment, search, and 1:1 against an enrolled person."""

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, Header

from service.api.access import EverythingDep, GalleriesDep, StoreWorkersDep
from service.api.bodies import openapi_body, reader
from service.api.errors import status_and_code
from service.api.gallery_schemas import (
    CandidateOut,
    EnrolAnswer,
    EnrolRequest,
    FacePage,
    FaceRecordOut,
    GallerySize,
    ProbeOut,
    SearchAnswer,
    SearchPointOut,
    SearchRequest,
    VerifyPersonRequest,
)
from service.api.guard import AskerDep, AuditedRoute
from service.api.routes.galleries import ERASED, NOT_FOUND, Cursor, Limit
from service.api.routes.photos import ERRORS
from service.api.schemas import Box, CompareAnswer
from service.decision.quality_policy import require_quality
from service.decision.searches import choose_person_point, choose_search_point
from service.decision.thresholds import OperatingPoint
from service.engine import Engine
from service.gallery.gallery import Galleries
from service.gallery.records import NewFace
from service.gallery.store import AddedFaces, Once
from service.identification import decide, digest, enrol, examine, verify_enrolled
from service.recognition.select import box_details

router = APIRouter(
    prefix="/v1/galleries/{gallery}", tags=["faces"], responses={**ERRORS, **NOT_FOUND}, route_class=AuditedRoute
)
PERSON = "/persons/{person}"
IdempotencyKey = Annotated[str | None, Header(max_length=255)]


@router.post(f"{PERSON}/faces", status_code=201, openapi_extra=openapi_body(EnrolRequest))
async def enrol_faces(
    gallery: str,
    person: str,
    body: Annotated[EnrolRequest, Depends(reader(EnrolRequest))],
    service: EverythingDep,
    idempotency_key: IdempotencyKey = None,
) -> EnrolAnswer:
    """Enrol photos of a person, each with its own outcome, or templates made elsewhere.

    With an ``Idempotency-Key`` the same request again gives the answer of the first time and adds nothing.
    """
    galleries, store_workers = service.galleries, service.store_workers
    contents = body.images or [repr(body.embeddings).encode()]
    # The default leaves no trace, so that keys from before there was a policy still hold.
    policy = [] if body.quality == "enrol" else [body.quality]
    asked = digest(person, body.faces, body.face_ids, *policy, *contents)
    once = Once(idempotency_key, asked) if idempotency_key else None
    if once is not None:
        before = await store_workers.run(galleries.store.answered, gallery, person, once)
        if before is not None:
            return EnrolAnswer.model_validate(before)
    # Known before photos are worked on.
    await store_workers.run(galleries.store.person, gallery, person)
    place = (gallery, person)
    if body.images is None:
        added = await store_workers.run(_enrol_templates, service.engine, galleries, place, body, once)
    else:
        calls = [
            (service.engine, image, body.faces, f"images[{i}]", body.quality) for i, image in enumerate(body.images)
        ]
        examined = await service.workers.map(examine, calls)
        ids: list[str | None] = [*body.face_ids] if body.face_ids else [None] * len(examined)
        added = await store_workers.run(
            enrol, galleries, place, examined, ids, once, lambda error: status_and_code(error)[1], service.keep_crops
        )
    return EnrolAnswer.model_validate(added.answer)


def _enrol_templates(
    engine: Engine, galleries: Galleries, place: tuple[str, str], body: EnrolRequest, once: Once | None
) -> AddedFaces:
    assert body.embeddings is not None
    assert body.embedding_contract is not None
    engine.require_contract(body.embedding_contract)
    faces = [
        NewFace(engine.template(f"embeddings[{i}]", given.embedding), given.face_id)
        for i, given in enumerate(body.embeddings)
    ]
    return galleries.enrol(
        *place,
        faces,
        once,
        lambda records: {"enrolled": [{"face_id": record.id} for record in records], "rejected": []},
    )


@router.get(f"{PERSON}/faces")
async def list_faces(
    gallery: str,
    person: str,
    galleries: GalleriesDep,
    workers: StoreWorkersDep,
    cursor: Cursor = None,
    limit: Limit = 100,
) -> FacePage:
    page = await workers.run(galleries.store.faces, gallery, person, cursor, limit)
    return FacePage(faces=[FaceRecordOut.of(record) for record in page.items], cursor=page.cursor)


@router.delete(f"{PERSON}/faces/{{face_id}}", status_code=204, responses=ERASED)
async def delete_face(
    gallery: str, person: str, face_id: str, galleries: GalleriesDep, workers: StoreWorkersDep
) -> None:
    await workers.run(galleries.delete_face, gallery, person, face_id)


@router.post(f"{PERSON}/verify", openapi_extra=openapi_body(VerifyPersonRequest))
async def verify_person(
    gallery: str,
    person: str,
    body: Annotated[VerifyPersonRequest, Depends(reader(VerifyPersonRequest))],
    service: EverythingDep,
) -> CompareAnswer:
    """Is the person in the photo the enrolled one? Compared is the mean of that person's faces."""

    def choose(photos: int) -> OperatingPoint:
        return choose_person_point(service.engine.thresholds, photos, body.fmr, body.threshold, body.extrapolate)

    choose(1)  # refuses before anything is worked on
    subject = await service.workers.run(service.engine.subject, body.image, body.faces, "image", body.quality)
    comparison = await service.store_workers.run(verify_enrolled, service.galleries, (gallery, person), subject, choose)
    return CompareAnswer.of(comparison)


@router.post("/search", openapi_extra=openapi_body(SearchRequest))
async def search(
    gallery: str,
    body: Annotated[SearchRequest, Depends(reader(SearchRequest))],
    service: EverythingDep,
    asker: AskerDep,
) -> SearchAnswer:
    """Who of the gallery is it? ``unknown`` is an ordinary answer. One entry in ``probes`` for each probe face.

    A person stands by the mean of the faces: ``similarity`` is the cosine to that.
    """
    boxes: list[Box | None] = [None]
    if body.image is not None:
        _, found = await service.workers.run(service.engine.embed, body.image, body.faces)
        boxes = [Box(**box_details(face.face)) for face, _ in found]
        for face, _ in found:
            require_quality(face.quality, body.quality, service.engine.card.calibration, "image")
        vectors = [embedded.embedding for _, embedded in found]
    else:
        assert body.embedding is not None
        assert body.embedding_contract is not None
        service.engine.require_contract(body.embedding_contract)
        vectors = [service.engine.template("embedding", body.embedding)]
    probes = np.stack(vectors) if vectors else np.zeros((0, service.engine.card.contract.dimension), np.float32)
    # Two candidates at least, as the second says how sure the first is.
    result = await service.search_workers.run(
        service.galleries.search, gallery, probes, max(2, body.top_k), body.filter
    )
    point = choose_search_point(service.engine.thresholds, result.sizes, body.wanted)
    answers = [decide(found, point, body.candidates == "above_threshold") for found in result.candidates]
    asker.told["identified"] = [answer.candidates[0].person.id for answer in answers if answer.identified]
    return SearchAnswer(
        gallery=gallery,
        gallery_size=GallerySize(persons=result.persons, faces=result.faces),
        operating_point=SearchPointOut.of(point),
        probes=[
            ProbeOut(
                box=box,
                decision="identified" if answer.identified else "unknown",
                margin=answer.margin,
                ambiguous=answer.ambiguous,
                candidates=[CandidateOut.of(candidate) for candidate in answer.candidates[: body.top_k]],
            )
            for box, answer in zip(boxes, answers, strict=True)
        ],
    )
