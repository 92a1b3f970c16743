"""Health, facts, request ids, and what happens when the unexpected or too much happens."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service import __version__, errors
from service.api.app import create_app
from service.api.errors import STATUS_AND_CODE
from service.engine import Engine
from service.gallery.gallery import Galleries
from service.gallery.store import Store
from service.settings import Settings


def test_live_and_ready(client: TestClient) -> None:
    assert client.get("/v1/health/live").json() == {"status": "live"}
    assert client.get("/v1/health/ready").json() == {"status": "ready"}


def test_not_ready_before_the_networks_are_warm_and_after_draining(engine: Engine) -> None:
    app = create_app(engine, Settings())
    early = TestClient(app).get("/v1/health/ready")
    assert early.status_code == 503
    assert early.json()["error"]["code"] == "not_ready"
    assert early.headers["retry-after"]
    with TestClient(app) as started:
        deadline = time.monotonic() + 60
        while started.get("/v1/health/ready").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert TestClient(app).get("/v1/health/ready").status_code == 503


def test_info_says_what_runs(client: TestClient, engine: Engine) -> None:
    info = client.get("/v1/info").json()
    assert info["version"] == __version__
    assert info["bundle"] == {"name": "open", "version": "1", "licence": "MIT AND Apache-2.0", "commercial_use": True}
    assert info["embedding_contract"] == engine.card.contract.digest()
    assert info["embedding_dimension"] == 128
    assert info["provider"]["embedder"].endswith("ExecutionProvider")
    assert [point["fmr"] for point in info["operating_points"]] == [1e-3, 1e-4, 1e-5, 1e-6]
    assert info["limits"]["max_pixels"] == 50_000_000


def test_info_says_how_searches_are_answered(engine: Engine, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "gallery.db")
    galleries = Galleries(store, engine.card.embedding_contract, engine.card.contract.dimension)
    info = TestClient(create_app(engine, Settings(), galleries)).get("/v1/info").json()
    store.close()
    assert (info["gallery_backend"], info["search"]) == ("sqlite", {"mode": "exact", "device": "cpu"})


def test_a_parameter_out_of_range_is_answered_in_the_common_shape(engine: Engine, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "gallery.db")
    galleries = Galleries(store, engine.card.embedding_contract, engine.card.contract.dimension)
    answer = TestClient(create_app(engine, Settings(), galleries)).get("/v1/galleries?limit=1001")
    store.close()
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "invalid_request"
    assert "limit" in answer.json()["error"]["message"]
    assert "1001" in answer.json()["error"]["message"]
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_a_service_that_cannot_get_ready_says_so_and_stops(engine: Engine, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "gallery.db")
    store.put_gallery("g", None, None, engine.card.embedding_contract, engine.card.contract.dimension)
    galleries = Galleries(store, engine.card.embedding_contract, engine.card.contract.dimension)
    store.close()
    (tmp_path / "gallery.db").write_bytes(b"damaged" * 5000)
    failures: list[Exception] = []
    with TestClient(create_app(engine, Settings(), galleries, failures.append)) as client:
        deadline = time.monotonic() + 60
        while not failures:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert client.get("/v1/health/ready").status_code == 503
    assert "damaged" in str(failures[0])


def test_a_sane_request_id_is_kept_and_any_other_replaced(client: TestClient) -> None:
    assert client.get("/v1/health/live", headers={"x-request-id": "my-id.1:2"}).headers["x-request-id"] == "my-id.1:2"
    for bad in ("", "a b", "x" * 200, "ü".encode(), "<script>"):
        answer = client.get("/v1/health/live", headers={"x-request-id": bad})
        assert len(answer.headers["x-request-id"]) == 32
    ids = {client.get("/v1/health/live").headers["x-request-id"] for _ in range(5)}
    assert len(ids) == 5


def test_an_unexpected_error_is_a_500_in_the_common_shape(
    client: TestClient, engine: Engine, portrait: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(content: bytes) -> None:
        raise RuntimeError(f"a secret path, {len(content)} bytes")

    monkeypatch.setattr(engine, "detect", broken)
    answer = client.post("/v1/detect", files={"image": ("a.jpg", portrait)}, headers={"x-request-id": "trace-me"})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal"
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "trace-me"


def test_more_callers_than_places_are_refused_at_once(
    engine: Engine, portrait: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    detect = engine.detect

    def slow(content: bytes) -> Any:
        gate.wait(30)
        return detect(content)

    monkeypatch.setattr(engine, "detect", slow)
    app = create_app(engine, Settings(max_waiting=1))
    with TestClient(app) as client:
        places = app.state.workers.threads + 1
        answers: list[Any] = []

        def ask() -> None:
            answers.append(client.post("/v1/detect", files={"image": ("a.jpg", portrait)}))

        callers = [threading.Thread(target=ask) for _ in range(places + 3)]
        for caller in callers:
            caller.start()
        while len(answers) < 3:
            assert any(caller.is_alive() for caller in callers)
            threading.Event().wait(0.01)
        gate.set()
        for caller in callers:
            caller.join()
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200] * places + [429] * 3
    refusal = next(answer for answer in answers if answer.status_code == 429)
    assert refusal.json()["error"]["code"] == "overloaded"
    assert int(refusal.headers["retry-after"]) >= 1


def test_every_error_that_a_caller_can_meet_has_its_place_in_the_table() -> None:
    def below(kind: type[errors.LikenessError]) -> set[type[errors.LikenessError]]:
        return {kind} | {found for child in kind.__subclasses__() for found in below(child)}

    abstract = {errors.LikenessError, errors.UnusableInput, errors.Missing}
    for kind in below(errors.LikenessError) - abstract:
        assert any(parent in STATUS_AND_CODE for parent in kind.__mro__), kind


def test_the_openapi_document_describes_both_encodings(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    verify = document["paths"]["/v1/verify"]["post"]
    content = verify["requestBody"]["content"]
    assert set(content) == {"multipart/form-data", "application/json"}
    multipart = content["multipart/form-data"]["schema"]
    assert multipart["properties"]["image_a"] == {"type": "string", "format": "binary"}
    assert multipart["required"] == ["image_a", "image_b"]
    assert multipart["additionalProperties"] is False
    assert content["application/json"]["schema"]["properties"]["image_a"]["required"] == ["base64"]
    assert set(document["paths"]["/v1/compare"]["post"]["requestBody"]["content"]) == {"application/json"}
    assert {"400", "413", "415", "422", "429", "503"} <= set(verify["responses"])
