"""Galleries moved out and in over the real application, store and networks."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from service.api.app import create_app
from service.api.bulk_schemas import MOST_FACES_IN, MOST_FACES_OUT
from service.engine import Engine
from service.gallery.gallery import Galleries
from service.gallery.store import Store
from service.settings import Settings

StoreIn = Callable[[Path], Store]

STAFF, COPY = "/v1/galleries/staff", "/v1/galleries/copy"


@contextmanager
def opened(engine: Engine, store_in: StoreIn, folder: Path, settings: Settings | None = None) -> Iterator[TestClient]:
    store = store_in(folder)
    galleries = Galleries(store, engine.card.embedding_contract, engine.card.contract.dimension)
    app = create_app(engine, settings or Settings(), galleries)
    with TestClient(app, raise_server_exceptions=False) as client:
        while client.get("/v1/health/ready").status_code == 503:
            time.sleep(0.01)
        yield client
    store.close()


@pytest.fixture
def service(engine: Engine, store_in: StoreIn, tmp_path: Path) -> Iterator[TestClient]:
    with opened(engine, store_in, tmp_path) as client:
        for gallery in (STAFF, COPY):
            assert client.put(gallery).status_code == 201
        yield client


@pytest.fixture(scope="module")
def contract(engine: Engine) -> str:
    return engine.card.embedding_contract


def units(count: int, seed: int = 1) -> np.ndarray[Any, np.dtype[np.float32]]:
    vectors = np.random.default_rng(seed).normal(size=(count, 128)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def sent(vector: np.ndarray[Any, np.dtype[np.float32]]) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def person(id: str, vectors: np.ndarray[Any, np.dtype[np.float32]], **fields: Any) -> dict[str, Any]:
    faces = [{"face_id": f"{id}.{n}", "embedding": sent(vector)} for n, vector in enumerate(vectors)]
    return {"person_id": id, "faces": faces, **fields}


def put(service: TestClient, contract: str, *persons: dict[str, Any], gallery: str = STAFF) -> Any:
    return service.post(f"{gallery}/import", json={"embedding_contract": contract, "persons": persons})


def pages(service: TestClient, gallery: str = STAFF, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while not found or found[-1]["cursor"]:
        cursor = {"cursor": found[-1]["cursor"]} if found else {}
        answer = service.get(f"{gallery}/export", params={**query, **cursor})
        assert answer.status_code == 200, answer.text
        found.append(answer.json())
    return found


def search(service: TestClient, gallery: str, vector: Any, contract: str, **fields: Any) -> dict[str, Any]:
    body = {"embedding": vector.tolist(), "embedding_contract": contract, **fields}
    answer = service.post(f"{gallery}/search", json=body)
    assert answer.status_code == 200, answer.text
    return {key: value for key, value in answer.json().items() if key != "gallery"}


def counts(answer: Any) -> tuple[int, int, int, int]:
    assert answer.status_code == 200, answer.text
    persons, faces = answer.json()["persons"], answer.json()["faces"]
    return persons["created"], persons["updated"], faces["created"], faces["present"]


def error(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_moved_gallery_gives_the_same_answers_and_pages(
    service: TestClient, contract: str, engine: Engine, portrait: bytes, group_portraits: list[bytes]
) -> None:
    about = {"name": "Ann", "metadata": {"floor": 1, "badge": True, "x": 0.1}, "expires_at": "2031-05-06T07:08:09.1Z"}
    assert service.put(f"{STAFF}/persons/ann", json=about).status_code == 201
    assert service.put(f"{STAFF}/persons/nobody-yet").status_code == 201
    for photo in (portrait, group_portraits[0]):
        assert service.post(f"{STAFF}/persons/ann/faces", files={"images": photo}).status_code == 201
    [page] = pages(service)
    assert {key: page[key] for key in ("gallery", "embedding_contract", "embedding_dimension", "cursor")} == {
        "gallery": "staff",
        "embedding_contract": contract,
        "embedding_dimension": 128,
        "cursor": None,
    }
    ann, nobody = page["persons"]
    assert (ann["person_id"], ann["name"], ann["metadata"]) == ("ann", "Ann", about["metadata"])
    assert (nobody["person_id"], nobody["faces"]) == ("nobody-yet", [])
    # The embedding is what the networks made of the photo, bit for bit.
    embedded = engine.subject(portrait, "single", "photo").embedded.embedding
    stored = np.frombuffer(base64.b64decode(ann["faces"][0]["embedding"]), "<f4")
    np.testing.assert_array_equal(stored, embedded)

    assert counts(put(service, contract, *page["persons"], gallery=COPY)) == (2, 0, 2, 0)
    assert pages(service, COPY) == [{**page, "gallery": "copy"}]
    for path in ("/persons/ann", "/persons/ann/faces"):
        before, after = (service.get(f"{gallery}{path}").json() for gallery in (STAFF, COPY))
        for answer in (before, after):
            answer.pop("updated_at", None)
        assert before == after
    for vector in (embedded, *units(20)):
        assert search(service, COPY, vector, contract) == search(service, STAFF, vector, contract)


def test_an_import_is_searchable_at_once_and_survives_a_restart(
    engine: Engine, store_in: StoreIn, contract: str, tmp_path: Path
) -> None:
    vectors = units(3000)
    batch = [person(f"p{i:04}", vectors[2 * i : 2 * i + 2]) for i in range(1500)]
    with opened(engine, store_in, tmp_path) as service:
        service.put(STAFF)
        assert counts(put(service, contract, *batch)) == (1500, 0, 3000, 0)
        found = [search(service, STAFF, vectors[i], contract) for i in (0, 1, 2999)]
    assert [answer["probes"][0]["candidates"][0]["face_id"] for answer in found] == ["p0000.0", "p0000.1", "p1499.1"]
    assert found[0]["gallery_size"] == {"persons": 1500, "faces": 3000}
    with opened(engine, store_in, tmp_path) as service:
        assert [search(service, STAFF, vectors[i], contract) for i in (0, 1, 2999)] == found


def test_the_same_import_again_changes_nothing(service: TestClient, contract: str) -> None:
    ann = person("ann", units(3), name="Ann", metadata={"badge": True, "floor": 2}, expires_at="2031-01-01T00:00:00Z")
    assert counts(put(service, contract, ann, person("bob", units(2, 9)))) == (2, 0, 5, 0)
    before = pages(service), service.get(f"{STAFF}/persons/ann").json()
    assert counts(put(service, contract, ann, person("bob", units(2, 9)))) == (0, 0, 0, 5)
    assert (pages(service), service.get(f"{STAFF}/persons/ann").json()) == before
    more = {**person("ann", units(4)), **{key: ann[key] for key in ("name", "metadata", "expires_at")}}
    assert counts(put(service, contract, more)) == (0, 0, 1, 3)
    assert service.get(STAFF).json()["faces"] == 6
    assert search(service, STAFF, units(4)[3], contract)["gallery_size"]["faces"] == 6


@pytest.mark.parametrize(
    "change", [{"name": "Anna"}, {"metadata": {"badge": 1}}, {"metadata": {}}, {"expires_at": None}]
)
def test_a_person_who_is_there_is_changed(service: TestClient, contract: str, change: dict[str, Any]) -> None:
    fields = {"name": "Ann", "metadata": {"badge": True}, "expires_at": "2031-01-01T00:00:00Z"}
    put(service, contract, person("ann", units(1), **fields))
    created_at = service.get(f"{STAFF}/persons/ann").json()["created_at"]
    changed = {**fields, **change}
    assert counts(put(service, contract, person("ann", units(1), **changed))) == (0, 1, 0, 1)
    shown = service.get(f"{STAFF}/persons/ann").json()
    assert json.dumps({key: shown[key] for key in fields}) == json.dumps(changed)
    assert (shown["created_at"], shown["faces"]) == (created_at, 1)


def test_pages_end_at_persons_and_are_bounded(service: TestClient, contract: str) -> None:
    sizes = {"a": 1, "b": MOST_FACES_OUT - 2, "c": 1, "d": 1, "e": MOST_FACES_OUT + 5, "f": 0, "g": 2}
    vectors = np.split(units(sum(sizes.values())), np.cumsum(list(sizes.values()))[:-1])
    everyone = [person(id, part) for id, part in zip(sizes, vectors, strict=True)]
    assert counts(put(service, contract, *everyone))[2] == sum(sizes.values())
    found = pages(service)
    assert [[p["person_id"] for p in page["persons"]] for page in found] == [["a", "b", "c"], ["d"], ["e"], ["f", "g"]]
    sent_back = [p for page in found for p in page["persons"]]
    assert [len(p["faces"]) for p in sent_back] == list(sizes.values())
    for before, after in zip(everyone, sent_back, strict=True):
        bare = [{key: face[key] for key in ("face_id", "embedding")} for face in after["faces"]]
        assert bare == before["faces"]
    assert [[p["person_id"] for p in page["persons"]] for page in pages(service, limit=2)] == [
        ["a", "b"],
        ["c", "d"],
        ["e"],
        ["f", "g"],
    ]


def test_a_conflict_is_named_and_nothing_is_imported(service: TestClient, contract: str) -> None:
    vectors = units(6)
    put(service, contract, person("ann", vectors[:2], name="Ann"))
    before = pages(service)
    taken_id = {"face_id": "ann.1", "embedding": sent(vectors[1])}
    other_template = {"face_id": "ann.1", "embedding": sent(vectors[5])}
    for culprit in (
        {"person_id": "cid", "faces": [taken_id]},
        {"person_id": "ann", "name": "Changed", "faces": [other_template]},
    ):
        answer = put(service, contract, person("bob", vectors[2:4]), culprit)
        assert error(answer) == (409, "conflict")
        assert answer.json()["error"]["details"]["face"] == "ann.1"
        assert pages(service) == before
    for double, kind in (
        ([person("bob", vectors[2:3]), person("bob", vectors[3:3])], "person"),
        ([{"person_id": "bob", "faces": [taken_id, taken_id]}], "face"),
    ):
        answer = put(service, contract, *double)
        assert error(answer) == (409, "conflict")
        assert kind in answer.json()["error"]["details"]
    assert service.get(STAFF).json()["persons"] == 1
    assert [c["person_id"] for c in search(service, STAFF, vectors[2], contract)["probes"][0]["candidates"]] == ["ann"]


def test_another_contract_is_refused(service: TestClient) -> None:
    answer = put(service, "another", person("ann", units(1)))
    assert error(answer) == (409, "model_mismatch")
    assert service.get(STAFF).json()["persons"] == 0


def _with(index: int, value: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    vector = units(1)[0]
    vector[index] = value
    return vector


@pytest.mark.parametrize(
    ("embedding", "says"),
    [
        (sent(units(1)[0][:127]), "has 508 bytes"),
        (sent(units(1)[0] * np.float32(1.01)), "has length 1.01"),
        (sent(np.zeros(128, np.float32)), "has length 0"),
        (sent(_with(3, np.nan)), "has length nan"),
        (sent(_with(3, np.inf)), "has length inf"),
        (sent(units(1)[0])[:-3], "is not base64"),
        ("ä" * 683, "is not base64"),
    ],
)
def test_a_template_that_cannot_be_is_named(service: TestClient, contract: str, embedding: str, says: str) -> None:
    bad = {"person_id": "bob", "faces": [person("x", units(1))["faces"][0], {"face_id": "b", "embedding": embedding}]}
    answer = put(service, contract, person("ann", units(3, 4)), bad)
    assert error(answer) == (422, "invalid_request")
    assert answer.json()["error"]["message"].startswith(f"persons[1].faces[1].embedding {says}")
    assert answer.json()["error"]["details"]["field"] == "persons[1].faces[1].embedding"
    assert service.get(STAFF).json()["persons"] == 0


def test_only_what_is_off_by_more_than_rounding_is_normalised(service: TestClient, contract: str) -> None:
    exact, near = units(2, 5)
    assert counts(put(service, contract, person("ann", np.stack([exact, near * np.float32(1.0005)]))))[2] == 2
    faces = pages(service)[0]["persons"][0]["faces"]
    stored = [np.frombuffer(base64.b64decode(face["embedding"]), "<f4") for face in faces]
    np.testing.assert_array_equal(stored[0], exact)
    np.testing.assert_allclose(stored[1], near, rtol=3e-7)
    assert np.linalg.norm(stored[1].astype(np.float64)) == pytest.approx(1, abs=1e-6)
    again = put(service, contract, person("ann", np.stack([exact, near * np.float32(1.0005)])))
    assert counts(again) == (0, 0, 0, 2)


@pytest.mark.parametrize(
    "change",
    [
        {"unknown": 1},
        {"persons": {}},
        {"embedding_contract": None},
        {"persons": [{"person_id": "a b"}]},
        {"persons": [{"person_id": "ann", "age": 3}]},
        {"persons": [{"person_id": "ann", "metadata": {"a": []}}]},
        {"persons": [{"person_id": "ann", "created_at": "2031-01-01T00:00:00"}]},
        {"persons": [{"person_id": "ann", "faces": [{"face_id": "a"}]}]},
        {"persons": [{"person_id": "ann", "faces": [{"face_id": "a/b", "embedding": sent(units(1)[0])}]}]},
    ],
)
def test_a_body_of_another_shape_is_refused(service: TestClient, contract: str, change: dict[str, Any]) -> None:
    body = {"embedding_contract": contract, "persons": [person("good", units(1))], **change}
    assert error(service.post(f"{STAFF}/import", json=body)) == (422, "invalid_request")
    assert service.get(STAFF).json()["persons"] == 0


def test_there_are_limits(engine: Engine, store_in: StoreIn, contract: str, tmp_path: Path) -> None:
    settings = Settings(max_body_bytes=64 * 1024 * 1024)
    with opened(engine, store_in, tmp_path, settings) as service:
        service.put(STAFF)
        vectors = units(MOST_FACES_IN + 1)
        answer = put(service, contract, person("ann", vectors[:5000]), person("bob", vectors[5000:]))
        assert error(answer) == (422, "invalid_request")
        assert "10,001 faces" in answer.json()["error"]["message"]
        assert service.get(STAFF).json()["persons"] == 0
        everyone = person("ann", vectors[:5000]), person("bob", vectors[5000:-1])
        assert counts(put(service, contract, *everyone)) == (2, 0, MOST_FACES_IN, 0)
    with opened(engine, store_in, tmp_path, Settings(max_body_bytes=100_000)) as service:
        assert error(put(service, contract, person("cid", units(200, 7)))) == (413, "image_too_large")
        assert service.get(f"{STAFF}/export", params={"limit": 1001}).status_code == 422
        assert error(service.get(f"{STAFF}/export", params={"cursor": "?"})) == (422, "invalid_request")
        for path, method in (("export", "GET"), ("import", "POST")):
            body = {"embedding_contract": contract, "persons": []} if method == "POST" else None
            answer = service.request(method, f"/v1/galleries/none/{path}", json=body)
            assert error(answer) == (404, "gallery_not_found")
