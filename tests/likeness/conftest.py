"""Both clients behind one face, so that a test is written once: every call is awaited."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio.to_thread
import pytest

from likeness import AsyncClient, Client
from tests.conftest import Running

Caller = Any


class Awaited:
    """A ``Client`` in a thread of its own for each call; its iterators are asynchronous."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def with_options(self, **options: Any) -> "Awaited":
        return Awaited(self.client.with_options(**options))

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if name in ("galleries", "persons", "faces", "export"):
                return items(method(*args, **kwargs))
            return anyio.to_thread.run_sync(lambda: method(*args, **kwargs))

        async def items(iterator: Iterator[Any]) -> AsyncIterator[Any]:
            end = object()
            while (item := await anyio.to_thread.run_sync(next, iterator, end)) is not end:
                yield item

        return call


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def anyio_backend(monkeypatch: pytest.MonkeyPatch) -> str:
    """Tests of coroutines run in asyncio, and nothing comes from the environment of whoever runs them."""
    for name in ("LIKENESS_API_KEY", "LIKENESS_KEY", "LIKENESS_URL"):
        monkeypatch.delenv(name, raising=False)
    return "asyncio"


@pytest.fixture
async def caller(kind: str, running: Running) -> AsyncIterator[Caller]:
    """A client of the shared service."""
    async with opened(kind, running.url, running.key) as caller:
        yield caller


def opened(kind: str, url: str, key: str | None = None, **options: Any) -> Any:
    """A context manager of the sync or the async client."""
    return _Opened(Client(url, key, **options)) if kind == "sync" else AsyncClient(url, key, **options)


class _Opened:
    def __init__(self, client: Client) -> None:
        self.client = client

    async def __aenter__(self) -> Awaited:
        return Awaited(self.client)

    async def __aexit__(self, *_: object) -> None:
        self.client.close()


@pytest.fixture
def gallery() -> str:
    """The id of a gallery that no other test has."""
    return f"g-{uuid4().hex}"


@pytest.fixture(scope="session")
def photo_path(portrait: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "portrait.jpg"
    path.write_bytes(portrait)
    return path
