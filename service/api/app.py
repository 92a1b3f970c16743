"""The composition root of the HTTP service."""

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
from fastapi import Depends, FastAPI

from service import __version__, tracing
from service.api import errors
from service.api.callers import CallerContext
from service.api.context import RequestContext
from service.api.document import describe, name_operation
from service.api.figures import GallerySizes
from service.api.guard import CountedRequests, Guard, admit
from service.api.intake import Intake
from service.api.routes import bulk, faces, health, metrics, migration, photos, report
from service.api.routes import galleries as gallery_routes
from service.api.traced import TracedRequests
from service.engine import Engine
from service.engines import Engines
from service.gallery.gallery import Galleries
from service.migration.migrations import Migrations
from service.migration.worker import Reembedding
from service.retention import Retention
from service.runtime.workers import Workers
from service.security.audit_log import AuditLog
from service.settings import Settings
from service.web import page

# Requests to the store mostly wait for the disk, so there may be more of them than cores.
STORE_THREADS = 8
# Searches mostly wait for a scan that is shared by all that wait: the more there may be, the fewer scans.
SEARCH_THREADS = 64
# Between looks for galleries that are being moved.
MIGRATION_PAUSE_S = 1.0

log = logging.getLogger(__name__)


def create_app(
    engine: Engine | Engines,
    settings: Settings,
    galleries: Galleries | None = None,
    failed: Callable[[Exception], None] | None = None,
    guard: Guard | None = None,
) -> FastAPI:
    """The application around a loaded engine. It answers at once, and is ready when its networks are warm and its
    galleries in memory, with the bundles that they need.

    Args:
        engine: of the bundle that serves all calls which name no gallery.
        galleries: without them only the stateless calls are there.
        failed: called if it cannot become ready.
        guard: access keys and the audit log; without it everybody may do everything, and nothing is written down.
    """

    engines = engine if isinstance(engine, Engines) else Engines(engine, settings)
    engine = engines.default
    migrations = None if galleries is None else Migrations(engines, galleries)

    async def get_ready(app: FastAPI) -> None:
        try:
            await anyio.to_thread.run_sync(engine.warm_up)
            if galleries is not None and migrations is not None:
                start = time.perf_counter()
                await anyio.to_thread.run_sync(migrations.serve_all)
                galleries.expecting = False
                faces = await anyio.to_thread.run_sync(galleries.load, abandon_on_cancel=True)
                log.info("Ready: %d enrolled faces in memory after %.1f s", faces, time.perf_counter() - start)
        except Exception as error:
            log.exception("The service cannot start.")
            if failed is not None:
                failed(error)
        else:
            app.state.ready = True

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(get_ready, app)
            if galleries is not None:
                tasks.start_soon(_sweep, Retention(galleries, app.state.guard.audit), settings.retention_check_s)
                tasks.start_soon(_embed_again, app, Reembedding(engines, galleries, lambda: app.state.workers.busy))
            if app.state.guard.audit is not None and app.state.guard.audit.needs_sync:
                tasks.start_soon(_sync, app.state.guard.audit)
            yield
            app.state.ready = False
            tasks.cancel_scope.cancel()

    app = FastAPI(
        title="Likeness",
        version=__version__,
        summary="Face verification and identification",
        lifespan=lifespan,
        # FastAPI's own documentation pages load scripts from elsewhere; the document itself is at /openapi.json.
        docs_url=None,
        redoc_url=None,
        # Whoever resolves a face's id `..` in an address, as browsers do, asks for `/v1/galleries/staff/persons/ann/`;
        # led on to the path without the last slash, a deletion would take the person.
        redirect_slashes=False,
        dependencies=[Depends(admit)],
        # Its own spans and records hold paths, and with them ids, and messages; ours are in service.tracing.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        generate_unique_id_function=name_operation,
    )
    app.openapi = describe(app)  # type: ignore[method-assign]
    app.state.guard = guard or Guard()
    app.state.ready = app.state.draining = False
    app.state.engine, app.state.engines, app.state.migrations = engine, engines, migrations
    if galleries is not None:
        galleries.expecting = True
    app.state.settings = settings
    app.state.workers = Workers(engine.photo_threads, settings.max_waiting, "photos", settings.max_per_client)
    app.state.galleries = galleries
    app.state.gallery_sizes = None if galleries is None else GallerySizes(galleries, engines)
    app.state.store_workers = Workers(STORE_THREADS, settings.max_waiting, "store", settings.max_per_client)
    app.state.search_workers = Workers(SEARCH_THREADS, settings.max_waiting, "search", settings.max_per_client)
    app.state.intake = Intake(settings.max_body_bytes, settings.max_upload_bytes)
    # The last one added is the outermost.
    app.add_middleware(CountedRequests)
    app.add_middleware(CallerContext, intake=app.state.intake, timeout_s=settings.request_timeout_s)
    app.add_middleware(RequestContext)
    if tracing.on():
        app.add_middleware(TracedRequests)
    errors.install(app)
    app.include_router(health.router)
    app.include_router(metrics.router)
    app.include_router(photos.router)
    app.include_router(photos.audited)
    if galleries is not None:
        app.include_router(gallery_routes.router)
        app.include_router(faces.router)
        app.include_router(bulk.router)
        app.include_router(report.router)
        app.include_router(migration.router)
    page.install(app)
    return app


async def _sweep(retention: Retention, pause_s: float) -> None:
    """Erase persons whose time is up, again and again."""
    while True:
        await anyio.sleep(pause_s)
        try:
            await anyio.to_thread.run_sync(retention.sweep)
        except Exception:
            # A full disk, a damaged file: the next one may go well.
            log.exception("Persons whose time is up could not be erased.")


async def _embed_again(app: FastAPI, reembedding: Reembedding) -> None:
    """Embed the faces of galleries that are moved to another bundle, for as long as there are any."""
    while True:
        more = False
        try:
            more = app.state.ready and await anyio.to_thread.run_sync(reembedding.step)
        except Exception:
            log.exception("Faces could not be embedded under their gallery's new contract.")
        await anyio.sleep(0 if more else MIGRATION_PAUSE_S)


async def _sync(audit: AuditLog) -> None:
    """Bring the lines of reads and searches to the disk."""
    while True:
        await anyio.sleep(1)
        try:
            await anyio.to_thread.run_sync(audit.sync)
        except Exception:
            log.exception("The audit log could not be synced.")
