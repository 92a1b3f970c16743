"""Health and facts about the running service."""

import anyio.to_thread
from fastapi import APIRouter, Request

from service import __version__
from service.api.schemas import (
    AlignmentOut,
    BundleOut,
    CalibrationOut,
    ErrorAnswer,
    Health,
    InfoAnswer,
    Limits,
    LoadedBundleOut,
    OperatingPointOut,
    ProviderOut,
    SearchOut,
)
from service.engine import Engine
from service.errors import NotReady
from service.gallery.gallery import Galleries
from service.recognition.decode import FORMATS
from service.settings import Settings

router = APIRouter(prefix="/v1", tags=["health"])


@router.get("/health/live")
async def live() -> Health:
    """The process runs. Does no work."""
    return Health(status="live")


@router.get("/health/ready", responses={503: {"model": ErrorAnswer}})
async def ready(request: Request) -> Health:
    """The networks are warm, all galleries in memory, and the database answers where it is a server of its own."""
    if request.app.state.draining or not request.app.state.ready:
        raise NotReady("The service is starting or draining.")
    galleries: Galleries | None = request.app.state.galleries
    if galleries is not None and galleries.store.remote:
        await anyio.to_thread.run_sync(galleries.store.check)
    return Health(status="ready")


@router.get("/info")
async def info(request: Request) -> InfoAnswer:
    """What runs here: the bundle, its licence, its operating points, and the limits."""
    engine: Engine = request.app.state.engine
    settings: Settings = request.app.state.settings
    galleries: Galleries | None = request.app.state.galleries
    card = engine.card
    return InfoAnswer(
        version=__version__,
        bundle=BundleOut(
            name=card.name,
            version=card.version,
            licence=card.licence.spdx,
            commercial_use=card.licence.commercial_use,
        ),
        bundles=[LoadedBundleOut.of(each.card) for each in request.app.state.engines.loaded()],
        embedding_contract=card.embedding_contract,
        embedding_dimension=card.contract.dimension,
        alignment=AlignmentOut(
            size=card.contract.alignment.size, template=[(x, y) for x, y in card.contract.alignment.template]
        ),
        provider=ProviderOut(detector=engine.providers[0], embedder=engine.providers[1]),
        operating_points=[OperatingPointOut.of(point) for point in engine.thresholds.listed()],
        calibration=None if card.calibration is None else CalibrationOut.of(card.calibration),
        limits=Limits(
            max_body_bytes=settings.max_body_bytes,
            max_pixels=settings.max_pixels,
            min_face_size=settings.min_face_size,
            media_types=[f"image/{name.lower()}" for name in FORMATS],
        ),
        gallery_backend=None if galleries is None else galleries.store.engine,
        search=None
        if galleries is None
        else SearchOut(mode="exact" if galleries.searchers.exact else "indexed", device=galleries.device),
    )
