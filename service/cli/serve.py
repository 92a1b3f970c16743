"""``likeness serve``: the HTTP service."""

import argparse
import ipaddress
import logging
import signal
import sys
from contextlib import ExitStack
from typing import Any

from service import logs, tracing
from service.api.app import create_app
from service.api.guard import Guard
from service.cli.options import settings_of
from service.cli.places import guarding
from service.cli.server import server_of
from service.cli.stores import open_store, searching
from service.engine import load_engine
from service.engines import Engines
from service.errors import InvalidRequest, Unavailable
from service.gallery.gallery import Galleries
from service.gallery.index import search_device
from service.runtime import blas
from service.security import own_memory
from service.settings import Settings

log = logging.getLogger(__name__)


def add_command(commands: Any, local: argparse.ArgumentParser) -> None:
    """Register the sub-command."""
    command = commands.add_parser("serve", parents=[local], help="serve over HTTP")
    command.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    command.add_argument(
        "--also",
        metavar="BUNDLE",
        action="append",
        help="another bundle, for galleries of its contract; may be given again (those of the data folder that "
        "galleries need are loaded without)",
    )
    command.add_argument("--port", type=int, help="port to listen on, 0 for a free one (default: 8000)")
    command.add_argument("--max-waiting", type=int, help="photos that may wait for a core before 429 (default: 128)")
    command.add_argument("--drain-s", type=float, help="seconds of service after SIGTERM (default: 1)")
    command.add_argument(
        "--no-auth", dest="auth", action="store_false", default=None, help="ask for no access key; on loopback only"
    )
    command.add_argument("--log-format", choices=["text", "json"], help="how the log is written (default: text)")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Load the bundle, then listen until a signal; traces are sent where the environment asks for them."""
    settings = settings_of(args)
    logs.write_as(settings.log_format)
    with ExitStack() as ending:
        if tracing.wanted():
            ending.callback(tracing.start())
        return _serve(settings)


def _serve(settings: Settings) -> int:
    if not settings.auth and not _loopback(settings.host):
        raise InvalidRequest(
            f"Without access keys the service listens on loopback only, not on {settings.host}. Leave out --no-auth, "
            "or --host."
        )
    engine = load_engine(settings, strangers=True)
    blas.one_thread_each()
    engines = Engines(engine, settings)
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
    for bundle in settings.also:
        engines.load(bundle)
    # uvicorn drains and then sends itself the signal again: this ends the process, but not before the store is closed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    own_memory.keep_private()
    store = open_store(settings)
    try:
        with guarding(settings, store.keys) as guard:
            device = search_device(settings.provider, settings.gpus[0])
            with searching(settings, store, device) as searchers:
                galleries = Galleries(store, card.embedding_contract, card.contract.dimension, device, searchers)
                _listen(engines, settings, galleries, guard)
    finally:
        store.close()
    return 0


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(engines: Engines, settings: Settings, galleries: Galleries, guard: Guard) -> None:
    failures: list[Exception] = []

    def stop(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    def draining() -> None:
        app.state.draining = True

    app = create_app(engines, settings, galleries, failed=stop, guard=guard)
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
