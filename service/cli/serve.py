"""``likeness serve``: the HTTP service."""

import argparse
import logging
from typing import Any

import uvicorn
from fastapi import FastAPI

from service.api.app import create_app
from service.cli.options import settings_of
from service.engine import load_engine
from service.gallery.gallery import Galleries
from service.gallery.store import Store
from service.settings import Settings

log = logging.getLogger(__name__)


def add_command(commands: Any, local: argparse.ArgumentParser) -> None:
    """Register the sub-command."""
    command = commands.add_parser("serve", parents=[local], help="serve over HTTP")
    command.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    command.add_argument("--port", type=int, help="port to listen on, 0 for a free one (default: 8000)")
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
    store = Store.open(settings.data_dir / "gallery" / "gallery.db")
    galleries = Galleries(store, card.embedding_contract, card.contract.dimension)
    try:
        _listen(create_app(engine, settings, galleries), settings)
    finally:
        store.close()
    return 0


def _listen(app: FastAPI, settings: Settings) -> None:
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_level="info",
        server_header=False,
        timeout_graceful_shutdown=30,
    )
