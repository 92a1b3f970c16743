"""What routes may use of the application: typed, and put there by ``service.api.app`` alone."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from service.engine import Engine
from service.gallery.gallery import Galleries
from service.runtime.workers import Workers


def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


def _galleries(request: Request) -> Galleries:
    galleries: Galleries = request.app.state.galleries
    return galleries


def _workers(request: Request) -> Workers:
    workers: Workers = request.app.state.workers
    return workers


def _store_workers(request: Request) -> Workers:
    workers: Workers = request.app.state.store_workers
    return workers


def _search_workers(request: Request) -> Workers:
    workers: Workers = request.app.state.search_workers
    return workers


@dataclass(frozen=True)
class Everything:
    """For the routes that need all of it."""

    engine: Engine
    galleries: Galleries
    workers: Workers
    store_workers: Workers
    search_workers: Workers
    keep_crops: bool


def _everything(request: Request) -> Everything:
    return Everything(
        _engine(request),
        _galleries(request),
        _workers(request),
        _store_workers(request),
        _search_workers(request),
        request.app.state.settings.keep_crops,
    )


EverythingDep = Annotated[Everything, Depends(_everything)]
EngineDep = Annotated[Engine, Depends(_engine)]
GalleriesDep = Annotated[Galleries, Depends(_galleries)]
# For decoding and networks.
WorkersDep = Annotated[Workers, Depends(_workers)]
# For the store, which mostly waits for the disk.
StoreWorkersDep = Annotated[Workers, Depends(_store_workers)]
