"""What routes may use of the application: typed, and put there by ``service.api.app`` alone."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Depends, Request

from service.engine import Engine
from service.engines import Engines
from service.errors import ModelMismatch
from service.gallery.gallery import Galleries
from service.migration.migrations import Migrations
from service.runtime.workers import Workers

T = TypeVar("T")


@dataclass(frozen=True)
class Everything:
    """For the routes that need all of it."""

    engines: Engines
    galleries: Galleries
    workers: Workers
    store_workers: Workers
    search_workers: Workers
    keep_crops: bool

    def engines_of(self, gallery: str) -> tuple[Engine, ...]:
        """Those that embed photos for a gallery, that of its pinned contract first.

        Raises GalleryNotFound, ModelMismatch, NotReady.
        """
        return tuple(self.engines.of(contract) for contract in self.galleries.contracts(gallery))

    async def embedded(self, gallery: str, work: Callable[[tuple[Engine, ...]], Awaitable[T]]) -> T:
        """What ``work`` makes with the engines of a gallery; once more where its contracts changed meanwhile."""
        engines = await self.store_workers.run(self.engines_of, gallery)
        try:
            return await work(engines)
        except ModelMismatch:
            again = await self.store_workers.run(self.engines_of, gallery)
            if again == engines:
                raise
            return await work(again)


# Coroutines, though there is nothing to wait for: FastAPI runs plain functions in a thread, each in one of its own.
async def _everything(request: Request) -> Everything:
    state = request.app.state
    return Everything(
        state.engines,
        state.galleries,
        state.workers,
        state.store_workers,
        state.search_workers,
        state.settings.keep_crops,
    )


async def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


async def _engines(request: Request) -> Engines:
    engines: Engines = request.app.state.engines
    return engines


async def _migrations(request: Request) -> Migrations:
    migrations: Migrations = request.app.state.migrations
    return migrations


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
EnginesDep = Annotated[Engines, Depends(_engines)]
MigrationsDep = Annotated[Migrations, Depends(_migrations)]
EngineDep = Annotated[Engine, Depends(_engine)]
GalleriesDep = Annotated[Galleries, Depends(_galleries)]
# For decoding and networks.
WorkersDep = Annotated[Workers, Depends(_workers)]
# For the store, which mostly waits for the disk.
StoreWorkersDep = Annotated[Workers, Depends(_store_workers)]
