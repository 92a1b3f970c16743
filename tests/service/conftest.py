"""The real application around the real bundle, and stores on both engines."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service.api.app import create_app
from service.engine import Engine
from service.gallery.store import Store
from service.postgres.store import open_store
from service.security.master_key import FilePlace
from service.settings import Settings


@pytest.fixture(scope="session")
def client(engine: Engine) -> Iterator[TestClient]:
    with TestClient(create_app(engine, Settings()), raise_server_exceptions=False) as client:
        while client.get("/v1/health/ready").status_code == 503:
            time.sleep(0.01)
        yield client


@pytest.fixture(params=os.environ.get("LIKENESS_TEST_BACKENDS", "sqlite postgresql").split())
def store_in(request: pytest.FixtureRequest) -> Iterator[Callable[[Path], Store]]:
    """Opens the store of a folder, again and again the same: each test runs on both engines.

    On PostgreSQL only the master key is in the folder; the database is one of the server that the tests share.
    """
    if request.param == "sqlite":
        yield lambda folder: Store.open(folder / "gallery.db", reserve_bytes=2**16)
        return
    server, template = request.getfixturevalue("postgres_server"), request.getfixturevalue("migrated")
    urls: dict[Path, str] = {}
    with ExitStack() as databases:

        def opened(folder: Path) -> Store:
            if folder not in urls:
                urls[folder] = server.url(databases.enter_context(server.database(template)))
            return open_store(urls[folder], FilePlace(folder / "master.key"))

        yield opened
