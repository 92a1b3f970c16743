"""Stateless calls: detect, embed, verify, compare. Nothing that is sent is kept."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from service.api.access import EngineDep, EnginesDep, WorkersDep
from service.api.bodies import openapi_body, reader
from service.api.guard import AuditedRoute
from service.api.schemas import (
    CompareAnswer,
    CompareRequest,
    DetectAnswer,
    DetectRequest,
    EmbedAnswer,
    EmbeddedFaceOut,
    EmbedRequest,
    ErrorAnswer,
    FaceOut,
    ImageSize,
    VerifyAnswer,
    VerifyRequest,
)
from service.engine import compare_subjects

ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorAnswer} for code in (400, 401, 403, 409, 413, 415, 422, 429, 503)
}

router = APIRouter(prefix="/v1", tags=["photos"], responses=ERRORS)
# Templates leave by it.
audited = APIRouter(prefix="/v1", tags=["photos"], responses=ERRORS, route_class=AuditedRoute)


@router.post("/detect", openapi_extra=openapi_body(DetectRequest))
async def detect(
    body: Annotated[DetectRequest, Depends(reader(DetectRequest))], engine: EngineDep, workers: WorkersDep
) -> DetectAnswer:
    """All faces of a photo, largest first. No face is an ordinary answer."""
    image, faces = await workers.run(engine.detect, body.image)
    return DetectAnswer(
        image=ImageSize(width=image.width, height=image.height),
        faces=[FaceOut.of(face) for face in faces[: body.max_faces]],
    )


@audited.post("/embed", openapi_extra=openapi_body(EmbedRequest))
async def embed(
    body: Annotated[EmbedRequest, Depends(reader(EmbedRequest))], engine: EngineDep, workers: WorkersDep
) -> EmbedAnswer:
    """Embeddings of faces. They are personal data: a face can be rebuilt from one."""
    _, faces = await workers.run(engine.embed, body.image, body.faces)
    return EmbedAnswer(
        embedding_contract=engine.card.embedding_contract,
        faces=[EmbeddedFaceOut.embedded(found, embedded, body.encoding) for found, embedded in faces],
    )


@router.post("/verify", openapi_extra=openapi_body(VerifyRequest))
async def verify(
    body: Annotated[VerifyRequest, Depends(reader(VerifyRequest))], engine: EngineDep, workers: WorkersDep
) -> VerifyAnswer:
    """Do two photos show the same person?"""
    point = engine.thresholds.choose(body.fmr, body.threshold, body.extrapolate)
    a, b = await workers.map(
        engine.subject,
        [(body.image_a, body.faces, "image_a", body.quality), (body.image_b, body.faces, "image_b", body.quality)],
    )
    return VerifyAnswer.verified(compare_subjects(a, b, point), a, b)


@router.post("/compare", openapi_extra=openapi_body(CompareRequest, multipart=False))
async def compare(
    body: Annotated[CompareRequest, Depends(reader(CompareRequest, multipart=False))], engines: EnginesDep
) -> CompareAnswer:
    """Do two embeddings, made earlier under the contract of a bundle that is loaded, belong to the same person?"""
    engine = engines.of(body.embedding_contract)
    point = engine.thresholds.choose(body.fmr, body.threshold, body.extrapolate)
    return CompareAnswer.of(engine.compare(body.a, body.b, body.embedding_contract, point))
