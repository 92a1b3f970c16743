"""Enrolment, search, and 1:1 against an enrolled person."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Header

from service.api.access import Everything, EverythingDep, GalleriesDep, StoreWorkersDep
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
    SpaceOut,
    VerifyPersonAnswer,
    VerifyPersonRequest,
)
from service.api.guard import AskerDep, AuditedRoute
from service.api.routes.galleries import ERASED, NOT_FOUND, Cursor, Limit
from service.api.routes.photos import ERRORS
from service.api.schemas import Box
from service.decision.quality_policy import require_quality
from service.decision.searches import choose_person_point
from service.decision.thresholds import OperatingPoint
from service.decision.two_spaces import Part, choose_rules, together, translated
from service.engine import Comparison, Engine
from service.engines import Engines
from service.gallery.gallery import Galleries
from service.gallery.moving import SpacesResult
from service.gallery.records import NewFace
from service.gallery.store import AddedFaces, Once
from service.identification import decide, digest, enrol, examine, probes, verify_enrolled
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
        added = await store_workers.run(_enrol_templates, service.engines, galleries, place, body, once)
    else:
        added = await service.embedded(gallery, partial(_enrol_photos, service, place, body, once))
    return EnrolAnswer.model_validate(added.answer)


async def _enrol_photos(
    service: Everything, place: tuple[str, str], body: EnrolRequest, once: Once | None, engines: tuple[Engine, ...]
) -> AddedFaces:
    images = body.images or []
    calls = [(engines, image, body.faces, f"images[{i}]", body.quality) for i, image in enumerate(images)]
    examined = await service.workers.map(examine, calls)
    return await service.store_workers.run(
        enrol,
        service.galleries,
        place,
        engines[0].contract,
        examined,
        [*body.face_ids] if body.face_ids else [None] * len(examined),
        once,
        lambda error: status_and_code(error)[1],
        service.keep_crops,
    )


def _enrol_templates(
    engines: Engines, galleries: Galleries, place: tuple[str, str], body: EnrolRequest, once: Once | None
) -> AddedFaces:
    """Into the space of the contract that is given."""
    assert body.embeddings is not None
    assert body.embedding_contract is not None
    engine = engines.of(body.embedding_contract)
    faces = [
        NewFace(engine.template(f"embeddings[{i}]", given.embedding), given.face_id, contract=engine.contract)
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
) -> VerifyPersonAnswer:
    """Is the person in the photo the enrolled one? Compared is the mean of that person's faces."""
    engines = await service.store_workers.run(service.engines_of, gallery)
    # Refuses before anything is worked on.
    choose_person_point(engines[0].thresholds, 1, body.fmr, body.threshold, body.extrapolate)
    comparison, contract = await service.embedded(gallery, partial(_verify, service, (gallery, person), body))
    return VerifyPersonAnswer.of_person(comparison, contract)


async def _verify(
    service: Everything, place: tuple[str, str], body: VerifyPersonRequest, engines: tuple[Engine, ...]
) -> tuple[Comparison, str]:
    first, *others = engines

    def choose(contract: str, photos: int) -> OperatingPoint:
        thresholds = service.engines.of(contract).thresholds
        threshold = body.threshold
        if threshold is not None and contract != first.contract:
            threshold = translated(threshold, first.thresholds, thresholds)
        return choose_person_point(thresholds, photos, body.fmr, threshold, body.extrapolate)

    subject = await service.workers.run(first.subject, body.image, body.faces, "image", body.quality, others)
    vectors = {**subject.others, first.contract: subject.embedded.embedding}
    return await service.store_workers.run(verify_enrolled, service.galleries, place, vectors, choose)


@router.post("/search", openapi_extra=openapi_body(SearchRequest))
async def search(
    gallery: str,
    body: Annotated[SearchRequest, Depends(reader(SearchRequest))],
    service: EverythingDep,
    asker: AskerDep,
) -> SearchAnswer:
    """Who of the gallery is it? ``unknown`` is an ordinary answer. One entry in ``probes`` for each probe face.

    A person stands by the mean of the faces: ``similarity`` is the cosine to that. In a gallery that is moved to
    another bundle each person is compared under one of two contracts, and ranked by how rare the similarity is.
    """
    boxes: list[Box | None] = [None]
    if body.image is not None:
        boxes, result = await service.embedded(gallery, partial(_search_photo, service, gallery, body))
    else:
        result = await _search_embedding(service, gallery, body)
    parts = [
        Part(found.contract, service.engines.of(found.contract).thresholds, found.sizes) for found in result.spaces
    ]
    pinned = Part(result.pinned, service.engines.of(result.pinned).thresholds, {})
    rules = choose_rules(parts, body.wanted, pinned)
    by_probe = zip(*(found.candidates for found in result.spaces), strict=True)
    only_above = body.candidates == "above_threshold"
    answers = [decide([*zip(rules, those, strict=True)], only_above) for those in by_probe]
    asker.told["identified"] = [answer.candidates[0].found.person.id for answer in answers if answer.identified]
    return SearchAnswer(
        gallery=gallery,
        gallery_size=GallerySize(persons=result.persons, faces=result.faces),
        operating_point=SearchPointOut.of(together(rules)),
        spaces=[SpaceOut.of(rule) for rule in rules] if result.moving else None,
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


async def _search_photo(
    service: Everything, gallery: str, body: SearchRequest, engines: tuple[Engine, ...]
) -> tuple[list[Box | None], SpacesResult]:
    assert body.image is not None
    found, vectors = await service.workers.run(probes, engines, body.image, body.faces)
    for face in found:
        require_quality(face.quality, body.quality, engines[0].card.calibration, "image")
    # Two candidates at least, as the second says how sure the first is.
    asked = (gallery, vectors, max(2, body.top_k), body.filter, body.exact)
    result = await service.search_workers.run(service.galleries.search_spaces, *asked)
    return [Box(**box_details(face.face)) for face in found], result


async def _search_embedding(service: Everything, gallery: str, body: SearchRequest) -> SpacesResult:
    """Among all who are in the space of the contract that is given."""
    assert body.embedding is not None
    assert body.embedding_contract is not None
    engine = service.engines.of(body.embedding_contract)
    probe = engine.template("embedding", body.embedding)[None]
    return await service.search_workers.run(
        service.galleries.search_space, gallery, engine.contract, probe, max(2, body.top_k), body.filter, body.exact
    )
