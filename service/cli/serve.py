"""``likeness serve``: the HTTP service."""

import argparse
import logging
import signal
import sys
from typing import Any

from service.api.app import create_app
from service.cli.options import settings_of
from service.cli.server import server_of
from service.engine import Engine, load_engine
from service.errors import Unavailable
from service.gallery.gallery import Galleries
from service.gallery.index import search_device
from service.gallery.store import Store
from service.settings import Settings

log = logging.getLogger(__name__)


def add_command(commands: Any, local: argparse.ArgumentParser) -> None:
    """Register the sub-command."""
    command = commands.add_parser("serve", parents=[local], help="serve over HTTP")
    command.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    command.add_argument("--port", type=int, help="port to listen on, 0 for a free one (default: 8000)")
    command.add_argument("--max-waiting", type=int, help="photos that may wait for a core before 429 (default: 64)")
    command.add_argument("--drain-s", type=float, help="seconds of service after SIGTERM (default: 1)")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Load the bundle, then listen until a signal."""
    settings = settings_of(args)
    engine = load_engine(settings)
    card = engine.card
    log.info(
        "bundle %s %s, weights under %s, detector on %s, embedder on %s",
        card.name,
        card.version,
        card.licence.spdx,
        *engine.providers,
    )
    if not card.licence.commercial_use:
        log.warning("The weights of bundle %s are not licensed for commercial use.", card.name)
    if settings.host not in ("127.0.0.1", "::1", "localhost"):
        log.warning("Listening on %s without authentication: keep it behind something that has it.", settings.host)
    # uvicorn drains and then sends itself the signal again: this ends the process, but not before the store is closed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    store = Store.open(settings.data_dir / "gallery" / "gallery.db")
    try:
        device = search_device(settings.provider, settings.gpu)
        _listen(engine, settings, Galleries(store, card.embedding_contract, card.contract.dimension, device))
    finally:
        store.close()
    return 0


def _listen(engine: Engine, settings: Settings, galleries: Galleries) -> None:
    failures: list[Exception] = []

    def stop(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    def draining() -> None:
        app.state.draining = True

    app = create_app(engine, settings, galleries, failed=stop)
    server = server_of(app, settings.drain_s, draining, host=settings.host, port=settings.port, log_level="info")
    try:
        server.run()
    except KeyboardInterrupt:
        pass
    except SystemExit as error:
        if error.code == 0:
            raise
        # uvicorn has logged why.
        raise Unavailable(f"Cannot listen on {settings.host}, port {settings.port}. Choose another.") from error
    if failures:
        raise failures[0]
