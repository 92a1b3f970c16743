"""Moving a gallery to another bundle while it is used."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from service.api.access import MigrationsDep, StoreWorkersDep
from service.api.bodies import openapi_body, reader
from service.api.guard import AskerDep, AuditedRoute
from service.api.migration_schemas import MigrationEnd, MigrationOut, MigrationStart, PendingPage, PendingPerson
from service.api.routes.galleries import ERASED, NOT_FOUND, Cursor, Limit
from service.api.routes.photos import ERRORS

router = APIRouter(
    prefix="/v1/galleries/{gallery}/migration",
    tags=["migration"],
    responses={**ERRORS, **NOT_FOUND},
    route_class=AuditedRoute,
)
LeaveBehind = Annotated[bool, Query(description="also if persons are left without faces")]


@router.get("")
async def get_migration(gallery: str, migrations: MigrationsDep, workers: StoreWorkersDep) -> MigrationOut:
    """How far it is; ``phase`` is ``none`` where the gallery is of one contract."""
    return MigrationOut.of(await workers.run(migrations.status, gallery))


@router.post("", status_code=201, openapi_extra=openapi_body(MigrationStart, multipart=False))
async def start_migration(
    gallery: str,
    body: Annotated[MigrationStart, Depends(reader(MigrationStart, multipart=False))],
    migrations: MigrationsDep,
    workers: StoreWorkersDep,
    asker: AskerDep,
) -> MigrationOut:
    """Begin to move the gallery to a bundle, which is loaded if it is not; the same again goes on with it."""
    asker.told["bundle"] = body.bundle
    return MigrationOut.of(await workers.run(migrations.start, gallery, body.bundle))


@router.get("/pending")
async def list_pending(
    gallery: str, migrations: MigrationsDep, workers: StoreWorkersDep, cursor: Cursor = None, limit: Limit = 100
) -> PendingPage:
    """Persons who are not in the target. They are found in the source for as long as that is there."""
    page = await workers.run(migrations.pending, gallery, cursor, limit)
    return PendingPage(persons=[PendingPerson.of(person) for person in page.items], cursor=page.cursor)


@router.post("/cut-over")
async def cut_over(gallery: str, migrations: MigrationsDep, workers: StoreWorkersDep) -> MigrationOut:
    """Pin the gallery to the target. The source is kept, and persons who are only there are found there."""
    return MigrationOut.of(await workers.run(migrations.cut_over, gallery))


@router.post("/roll-back")
async def roll_back(gallery: str, migrations: MigrationsDep, workers: StoreWorkersDep) -> MigrationOut:
    """After a cut-over: pin the gallery to the source again, and search everybody there who is."""
    return MigrationOut.of(await workers.run(migrations.roll_back, gallery))


@router.post("/finish", openapi_extra=openapi_body(MigrationEnd, multipart=False, required=False))
async def finish_migration(
    gallery: str,
    body: Annotated[MigrationEnd, Depends(reader(MigrationEnd, multipart=False, required=False))],
    migrations: MigrationsDep,
    workers: StoreWorkersDep,
) -> MigrationOut:
    """After a cut-over: erase the source, for good. Refused while persons are only there, unless asked for."""
    return MigrationOut.of(await workers.run(migrations.finish, gallery, body.leave_behind))


@router.delete("", status_code=204, responses=ERASED)
async def abandon_migration(
    gallery: str, migrations: MigrationsDep, workers: StoreWorkersDep, leave_behind: LeaveBehind = False
) -> None:
    """Before a cut-over, or after a roll back: erase the target. Refused while persons are only there."""
    await workers.run(migrations.abandon, gallery, leave_behind)
