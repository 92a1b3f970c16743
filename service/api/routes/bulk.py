"""Whole galleries: templates out, page by page, and in, many persons at a time."""

from typing import Annotated

from fastapi import APIRouter, Depends

from service.api.access import EnginesDep, GalleriesDep, StoreWorkersDep
from service.api.bodies import openapi_body, reader
from service.api.bulk_schemas import MOST_FACES_OUT, ExportPage, ImportAnswer, ImportRequest
from service.api.guard import AuditedRoute
from service.api.routes.galleries import NOT_FOUND, Cursor, Limit
from service.api.routes.photos import ERRORS
from service.engines import Engines
from service.gallery.gallery import Galleries

router = APIRouter(
    prefix="/v1/galleries/{gallery}", tags=["bulk"], responses={**ERRORS, **NOT_FOUND}, route_class=AuditedRoute
)


@router.get("/export")
async def export_persons(
    gallery: str, galleries: GalleriesDep, workers: StoreWorkersDep, cursor: Cursor = None, limit: Limit = 100
) -> ExportPage:
    """Persons with their templates, also of a gallery of another contract. Templates are personal data."""
    return await workers.run(_export, galleries, gallery, cursor, limit)


@router.post("/import", openapi_extra=openapi_body(ImportRequest, multipart=False))
async def import_persons(
    gallery: str,
    body: Annotated[ImportRequest, Depends(reader(ImportRequest, multipart=False))],
    engines: EnginesDep,
    galleries: GalleriesDep,
    workers: StoreWorkersDep,
) -> ImportAnswer:
    """Persons with their templates, all or nothing; the same again changes nothing."""
    return await workers.run(_import, engines, galleries, gallery, body)


def _export(galleries: Galleries, gallery: str, cursor: str | None, limit: int) -> ExportPage:
    return ExportPage.of(*galleries.store.export_page(gallery, cursor, limit, MOST_FACES_OUT))


def _import(engines: Engines, galleries: Galleries, gallery: str, body: ImportRequest) -> ImportAnswer:
    """Into the space of the contract that is given."""
    dimension = engines.of(body.embedding_contract).card.contract.dimension
    return ImportAnswer.of(galleries.import_persons(gallery, body.bulk(dimension), body.embedding_contract))
