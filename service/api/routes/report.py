"""The gallery doctor."""

from typing import Any

from fastapi import APIRouter

from service.api.access import EnginesDep, GalleriesDep, StoreWorkersDep
from service.api.guard import AuditedRoute
from service.api.report_schemas import GalleryReport
from service.api.routes.galleries import NOT_FOUND
from service.api.routes.photos import ERRORS
from service.engines import Engines
from service.gallery.gallery import Galleries
from service.gallery_report import examine_gallery

router = APIRouter(
    prefix="/v1/galleries/{gallery}", tags=["galleries"], responses={**ERRORS, **NOT_FOUND}, route_class=AuditedRoute
)


@router.get("/report")
async def report(gallery: str, engines: EnginesDep, galleries: GalleriesDep, workers: StoreWorkersDep) -> GalleryReport:
    """Probable duplicates, mislabelled photos, poor ones, and the error rates to expect. Compares all faces: minutes
    for tens of thousands."""
    told: dict[str, Any] = await workers.run(_examine, engines, galleries, gallery)
    return GalleryReport.model_validate(told)


def _examine(engines: Engines, galleries: Galleries, gallery: str) -> dict[str, Any]:
    # Another bundle's templates cannot be judged by this one's calibration.
    engine = engines.of(galleries.store.gallery(gallery).embedding_contract)
    return examine_gallery(galleries.store, gallery, engine.thresholds)
