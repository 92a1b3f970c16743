"""The real application with two bundles: the default one, and ``buffalo_s`` where somebody has obtained it."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.api.app import create_app
from service.engine import Engine
from service.engines import Engines
from service.gallery.gallery import Galleries
from service.gallery.store import Store
from service.settings import Settings

LICENCE = "LicenseRef-InsightFace-NonCommercial"


class Service:
    """A running application with its store."""

    def __init__(self, client: TestClient, store: Store) -> None:
        self.client, self.store = client, store

    def get(self, path: str, **more: Any) -> Any:
        answer = self.client.get(f"/v1/galleries/g{path}", **more)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, status: int = 200, **more: Any) -> Any:
        answer = self.client.post(f"/v1/galleries/g{path}", **more)
        assert answer.status_code == status, answer.text
        return answer.json()

    def enrol(self, person: str, photos: Sequence[bytes], status: int = 201) -> Any:
        assert self.client.put(f"/v1/galleries/g/persons/{person}").status_code in (200, 201)
        # The cut-outs of a group are not what every detector takes for good.
        files = [("images", photo) for photo in photos]
        return self.post(f"/persons/{person}/faces", status, files=files, data={"quality": "off"})

    def search(self, photo: bytes, **fields: str) -> Any:
        return self.post("/search", files={"image": photo}, data=fields)

    def found(self, photo: bytes) -> tuple[str | None, str | None]:
        """Who is identified, and under which contract."""
        [probe] = self.search(photo)["probes"]
        first = probe["candidates"][0] if probe["decision"] == "identified" else None
        return (None, None) if first is None else (first["person_id"], first["embedding_contract"])

    def until(self, reached: Callable[[Any], bool], patience_s: float = 60) -> Any:
        """The migration's status, once it is so far."""
        deadline = time.monotonic() + patience_s
        while not reached(told := self.get("/migration")):
            assert time.monotonic() < deadline, told
            time.sleep(0.05)
        return told


@pytest.fixture(scope="session")
def other_bundle(data_dir: Path) -> str:
    """The name of a bundle of another contract and dimension than the default one."""
    if not (data_dir / "bundles" / "buffalo_s" / "card.json").is_file():
        pytest.skip(f"not there: `likeness pull buffalo_s --accept-license {LICENCE} --data-dir {data_dir}` obtains it")
    return "buffalo_s"


@pytest.fixture(scope="session")
def engines(engine: Engine, data_dir: Path, other_bundle: str) -> Engines:
    """Both, loaded once."""
    engines = Engines(engine, Settings(data_dir=data_dir))
    engines.load(other_bundle)
    return engines


@pytest.fixture
def contracts(engines: Engines) -> tuple[str, str]:
    """Of the default bundle and of the other one."""
    first, second = engines.loaded()
    return first.contract, second.contract


@pytest.fixture
def opened(engines: Engines, data_dir: Path, tmp_path: Path) -> Callable[..., AbstractContextManager[Service]]:
    """``with opened(keep_crops=True) as service: ...``; again, on the same folder, it is the service restarted."""

    @contextmanager
    def start(**settings: bool) -> Iterator[Service]:
        store = Store.open(tmp_path / "gallery.db", reserve_bytes=2**16)
        galleries = Galleries(store, engines.default.contract, engines.default.card.contract.dimension)
        application = create_app(engines, Settings(data_dir=data_dir, **settings), galleries)
        with closing(store), TestClient(application, raise_server_exceptions=False) as client:
            while client.get("/v1/health/ready").status_code == 503:
                time.sleep(0.01)
            client.put("/v1/galleries/g")
            yield Service(client, store)

    return start
