"""What routes may use of the application: typed, and put there by ``service.api.app`` alone."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from service.engine import Engine
from service.gallery.gallery import Galleries
from service.runtime.workers import Workers


@dataclass(frozen=True)
class Everything:
    """For the routes that need all of it."""

    engine: Engine
    galleries: Galleries
    workers: Workers
    store_workers: Workers
    search_workers: Workers
    keep_crops: bool


# Coroutines, though there is nothing to wait for: FastAPI runs plain functions in a thread, each in one of its own.
async def _everything(request: Request) -> Everything:
    state = request.app.state
    return Everything(
        state.engine,
        state.galleries,
        state.workers,
        state.store_workers,
        state.search_workers,
        state.settings.keep_crops,
    )


async def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


async def _galleries(request: Request) -> Galleries:
    galleries: Galleries = request.app.state.galleries
    return galleries


async def _workers(request: Request) -> Workers:
    workers: Workers = request.app.state.workers
    return workers


async def _store_workers(request: Request) -> Workers:
    workers: Workers = request.app.state.store_workers
    return workers


EverythingDep = Annotated[Everything, Depends(_everything)]
EngineDep = Annotated[Engine, Depends(_engine)]
GalleriesDep = Annotated[Galleries, Depends(_galleries)]
# For decoding and networks.
WorkersDep = Annotated[Workers, Depends(_workers)]
# For the store, which mostly waits for the disk.
StoreWorkersDep = Annotated[Workers, Depends(_store_workers)]
