"""The composition root of the HTTP service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio.to_thread
from fastapi import FastAPI

from service import __version__
from service.api import errors
from service.api.context import RequestContext
from service.api.routes import faces, health, photos
from service.api.routes import galleries as gallery_routes
from service.engine import Engine
from service.gallery.gallery import Galleries
from service.runtime.networks import available_cores
from service.runtime.workers import Workers
from service.settings import Settings

# Requests to the store mostly wait for the disk, so there may be more of them than cores.
STORE_THREADS = 8


def create_app(engine: Engine, settings: Settings, galleries: Galleries | None = None) -> FastAPI:
    """The application around a loaded engine. Ready once its networks are warm and its galleries in memory.

    Without ``galleries`` only the stateless calls are there.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await anyio.to_thread.run_sync(engine.warm_up)
        if galleries is not None:
            await anyio.to_thread.run_sync(galleries.load)
        app.state.ready = True
        yield
        app.state.ready = False

    app = FastAPI(
        title="Likeness",
        version=__version__,
        summary="Face verification and identification",
        lifespan=lifespan,
        # FastAPI's own documentation pages load scripts from elsewhere; the document itself is at /openapi.json.
        docs_url=None,
        redoc_url=None,
    )
    app.state.ready = False
    app.state.engine = engine
    app.state.settings = settings
    app.state.workers = Workers(available_cores(), settings.max_waiting)
    app.state.galleries = galleries
    app.state.store_workers = Workers(STORE_THREADS, settings.max_waiting)
    app.add_middleware(RequestContext)
    errors.install(app)
    app.include_router(health.router)
    app.include_router(photos.router)
    if galleries is not None:
        app.include_router(gallery_routes.router)
        app.include_router(faces.router)
    return app
