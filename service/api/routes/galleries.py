"""Galleries and the persons in them."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response

from service.api.access import GalleriesDep, StoreWorkersDep
from service.api.bodies import openapi_body, parse_filter, reader
from service.api.gallery_schemas import (
    Erased,
    GalleryOut,
    GalleryPage,
    GalleryPut,
    PersonOut,
    PersonPage,
    PersonPatch,
    PersonPut,
)
from service.api.guard import AskerDep, AuditedRoute
from service.api.routes.photos import ERRORS
from service.api.schemas import ErrorAnswer

NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer}, 507: {"model": ErrorAnswer}}
# A deletion is answered with a receipt for those who ask for one.
ERASED: dict[int | str, dict[str, Any]] = {200: {"model": Erased}}
router = APIRouter(
    prefix="/v1/galleries", tags=["galleries"], responses={**ERRORS, **NOT_FOUND}, route_class=AuditedRoute
)

Cursor = Annotated[str | None, Query(max_length=500)]
Limit = Annotated[int, Query(ge=1, le=1000)]


@router.put(
    "/{gallery}",
    responses={201: {"model": GalleryOut}},
    openapi_extra=openapi_body(GalleryPut, multipart=False, required=False),
)
async def put_gallery(
    gallery: str,
    body: Annotated[GalleryPut, Depends(reader(GalleryPut, multipart=False, required=False))],
    galleries: GalleriesDep,
    workers: StoreWorkersDep,
    response: Response,
) -> GalleryOut:
    """Make a gallery, pinned to this bundle's contract, or rename it. 201 or 200."""
    record, created = await workers.run(galleries.put, gallery, body.name, body.description, body.retention_days)
    response.status_code = 201 if created else 200
    return GalleryOut.of(record)


@router.get("")
async def list_galleries(
    galleries: GalleriesDep, workers: StoreWorkersDep, asker: AskerDep, cursor: Cursor = None, limit: Limit = 100
) -> GalleryPage:
    """The galleries that the access key is for."""
    if asker.galleries is None:
        page = await workers.run(galleries.store.galleries, cursor, limit)
    else:
        # Not a filter on a page of all: its cursor would name a gallery of somebody else's.
        page = await workers.run(galleries.store.galleries_among, asker.galleries, cursor, limit)
    return GalleryPage(galleries=[GalleryOut.of(record) for record in page.items], cursor=page.cursor)


@router.get("/{gallery}")
async def get_gallery(gallery: str, galleries: GalleriesDep, workers: StoreWorkersDep) -> GalleryOut:
    return GalleryOut.of(await workers.run(galleries.store.gallery, gallery))


@router.delete("/{gallery}", status_code=204, responses=ERASED)
async def delete_gallery(gallery: str, galleries: GalleriesDep, workers: StoreWorkersDep) -> None:
    """Remove a gallery with all persons, faces and vectors."""
    await workers.run(galleries.delete, gallery)


@router.put(
    "/{gallery}/persons/{person}",
    responses={201: {"model": PersonOut}},
    openapi_extra=openapi_body(PersonPut, multipart=False, required=False),
)
async def put_person(
    gallery: str,
    person: str,
    body: Annotated[PersonPut, Depends(reader(PersonPut, multipart=False, required=False))],
    galleries: GalleriesDep,
    workers: StoreWorkersDep,
    response: Response,
) -> PersonOut:
    """Make a person, or replace name, metadata and expiry. 201 or 200."""
    record, created = await workers.run(
        galleries.store.put_person, gallery, person, body.name, body.metadata, body.expires_at
    )
    response.status_code = 201 if created else 200
    return PersonOut.of(record)


@router.get("/{gallery}/persons")
async def list_persons(
    gallery: str,
    galleries: GalleriesDep,
    workers: StoreWorkersDep,
    cursor: Cursor = None,
    limit: Limit = 100,
    filter: Annotated[str | None, Query(max_length=4096, description="metadata as a JSON object")] = None,
) -> PersonPage:
    page = await workers.run(galleries.store.persons, gallery, cursor, limit, parse_filter(filter))
    return PersonPage(persons=[PersonOut.of(record) for record in page.items], cursor=page.cursor)


@router.get("/{gallery}/persons/{person}")
async def get_person(gallery: str, person: str, galleries: GalleriesDep, workers: StoreWorkersDep) -> PersonOut:
    return PersonOut.of(await workers.run(galleries.store.person, gallery, person))


@router.patch("/{gallery}/persons/{person}", openapi_extra=openapi_body(PersonPatch, multipart=False))
async def patch_person(
    gallery: str,
    person: str,
    body: Annotated[PersonPatch, Depends(reader(PersonPatch, multipart=False))],
    galleries: GalleriesDep,
    workers: StoreWorkersDep,
) -> PersonOut:
    """Change the fields that are sent."""
    changes = {name: getattr(body, name) for name in body.model_fields_set}
    return PersonOut.of(await workers.run(galleries.store.patch_person, gallery, person, changes))


@router.delete("/{gallery}/persons/{person}", status_code=204, responses=ERASED)
async def delete_person(gallery: str, person: str, galleries: GalleriesDep, workers: StoreWorkersDep) -> None:
    """Remove a person with all faces and vectors; answered once all of it is durable."""
    await workers.run(galleries.delete_person, gallery, person)
