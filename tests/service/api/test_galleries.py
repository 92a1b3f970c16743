"""Enrolment and search over the real application, store and networks."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from service.api.app import create_app
from service.engine import Engine
from service.gallery.gallery import Galleries
from service.gallery.store import Store
from service.settings import Settings

StoreIn = Callable[[Path], Store]


@pytest.fixture
def service(engine: Engine, store_in: StoreIn, tmp_path: Path) -> Iterator[TestClient]:
    """A service with an empty store of its own; ``restarted`` opens the same store again."""
    with opened(engine, store_in, tmp_path) as client:
        yield client


class opened:
    def __init__(self, engine: Engine, store_in: StoreIn, folder: Path) -> None:
        self.store = store_in(folder)
        galleries = Galleries(self.store, engine.card.embedding_contract, engine.card.contract.dimension)
        self.client = TestClient(create_app(engine, Settings(), galleries), raise_server_exceptions=False)

    def __enter__(self) -> TestClient:
        client = self.client.__enter__()
        while client.get("/v1/health/ready").status_code == 503:
            time.sleep(0.01)
        return client

    def __exit__(self, *_: object) -> None:
        self.client.__exit__(None, None, None)
        self.store.close()


def make(service: TestClient, *persons: str) -> None:
    assert service.put("/v1/galleries/staff", json={"name": "Staff"}).status_code in (200, 201)
    for person in persons:
        answer = service.put(f"/v1/galleries/staff/persons/{person}", json={"name": person.title()})
        assert answer.status_code in (200, 201), answer.text


def enrol(service: TestClient, person: str, *photos: bytes, **headers: str) -> dict[str, Any]:
    files = [("images", (f"{i}.jpg", photo)) for i, photo in enumerate(photos)]
    answer = service.post(f"/v1/galleries/staff/persons/{person}/faces", files=files, headers=headers)
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


def search(service: TestClient, photo: bytes, **fields: str) -> dict[str, Any]:
    answer = service.post("/v1/galleries/staff/search", files={"image": ("probe.jpg", photo)}, data=fields)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_an_enrolled_person_is_identified_and_a_stranger_is_not(
    service: TestClient, portrait: bytes, portrait_again: bytes, group_portraits: list[bytes]
) -> None:
    make(service, "ann", *(f"friend{i}" for i in range(3)))
    enrol(service, "ann", portrait)
    for i in range(3):
        enrol(service, f"friend{i}", group_portraits[i])
    found = search(service, portrait_again)
    assert found["gallery"] == "staff"
    assert found["gallery_size"] == {"persons": 4, "faces": 4}
    [probe] = found["probes"]
    assert probe["decision"] == "identified"
    first = probe["candidates"][0]
    assert (first["person_id"], first["name"], first["rank"]) == ("ann", "Ann", 1)
    similarities = [candidate["similarity"] for candidate in probe["candidates"]]
    assert similarities == sorted(similarities, reverse=True)
    assert len(similarities) == 4
    point = found["operating_point"]
    assert first["similarity"] >= point["threshold"] > similarities[1]
    assert 0 < point["fmr"] < 1
    assert point["fpir"] == pytest.approx(1 - (1 - point["fmr"]) ** 4)
    assert point["fpir_interval"][0] < point["fpir"] < point["fpir_interval"][1]
    assert point["fmr_interval"][0] < point["fmr"] < point["fmr_interval"][1]
    assert 0 < point["fnir"] < 0.1
    assert probe["margin"] == pytest.approx(similarities[0] - similarities[1])
    assert probe["ambiguous"] is False
    [stranger] = search(service, group_portraits[5], candidates="above_threshold")["probes"]
    assert stranger["decision"] == "unknown"
    assert stranger["candidates"] == []


def test_one_face_under_two_names_is_identified_and_ambiguous(
    service: TestClient, portrait: bytes, portrait_again: bytes, group_portraits: list[bytes]
) -> None:
    make(service, "ann", "anna", "friend")
    enrol(service, "ann", portrait)
    enrol(service, "anna", portrait)
    enrol(service, "friend", group_portraits[0])
    # Asked for one candidate only, too.
    [probe] = search(service, portrait_again, top_k="1")["probes"]
    assert (probe["decision"], probe["ambiguous"]) == ("identified", True)
    assert probe["margin"] == 0
    assert len(probe["candidates"]) == 1
    service.delete("/v1/galleries/staff/persons/anna")
    [probe] = search(service, portrait_again)["probes"]
    assert (probe["decision"], probe["ambiguous"]) == ("identified", False)


def test_the_threshold_follows_from_the_persons_and_photos_that_are_searched(
    service: TestClient, portrait: bytes, group_portraits: list[bytes]
) -> None:
    make(service, "ann", "bob", "friend")
    service.put("/v1/galleries/staff/persons/bob", json={"metadata": {"floor": 2}})
    for person, photos in (("ann", [portrait]), ("bob", group_portraits[:1]), ("friend", group_portraits[1:2])):
        enrol(service, person, *photos)
    three = search(service, portrait, fpir="0.001")["operating_point"]
    one = search(service, portrait, fpir="0.001", filter='{"floor": 2}')["operating_point"]
    assert three["fmr"] == pytest.approx(1 - 0.999 ** (1 / 3))
    assert one["fmr"] == pytest.approx(0.001)
    assert one["threshold"] < three["threshold"]
    enrol(service, "bob", group_portraits[0])
    two_photos = search(service, portrait, fpir="0.001", filter='{"floor": 2}')["operating_point"]
    assert one["threshold"] < two_photos["threshold"] < three["threshold"]
    assert two_photos["fnir"] < one["fnir"] * 1.5


def test_everyone_in_a_photo_is_searched(service: TestClient, group_photo: bytes, group_portraits: list[bytes]) -> None:
    make(service, "first", "second")
    enrol(service, "first", group_portraits[0])
    enrol(service, "second", group_portraits[1])
    probes = search(service, group_photo, faces="all", top_k="1")["probes"]
    assert len(probes) == 6
    named = [p["candidates"][0]["person_id"] for p in probes if p["decision"] == "identified"]
    assert sorted(named) == ["first", "second"]
    assert all(p["box"]["width"] > 50 for p in probes)


def test_each_photo_has_its_own_outcome(service: TestClient, portrait: bytes, group_photo: bytes) -> None:
    make(service, "ann")
    answer = enrol(service, "ann", portrait, b"no photo", group_photo)
    assert [face["image_index"] for face in answer["enrolled"]] == [0]
    assert answer["enrolled"][0]["quality"]["inter_eye_distance"] > 30
    codes = {r["image_index"]: r["code"] for r in answer["rejected"]}
    assert codes == {1: "unsupported_media_type", 2: "multiple_faces"}
    nothing = service.post(
        "/v1/galleries/staff/persons/ann/faces", files=[("images", ("a.jpg", group_photo)), ("images", ("b", b"x"))]
    )
    assert nothing.status_code == 422
    assert len(nothing.json()["error"]["details"]["rejected"]) == 2


def test_the_same_request_again_adds_nothing(service: TestClient, portrait: bytes, portrait_again: bytes) -> None:
    make(service, "ann")
    first = enrol(service, "ann", portrait, **{"idempotency-key": "once"})
    assert enrol(service, "ann", portrait, **{"idempotency-key": "once"}) == first
    assert service.get("/v1/galleries/staff").json()["faces"] == 1
    other = service.post(
        "/v1/galleries/staff/persons/ann/faces",
        files=[("images", ("a.jpg", portrait_again))],
        headers={"idempotency-key": "once"},
    )
    assert (other.status_code, other.json()["error"]["code"]) == (409, "conflict")


def test_templates_are_enrolled_and_searched_by_vector(service: TestClient, engine: Engine) -> None:
    make(service, "ann", "bob")
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(2, 128))
    ann, bob = (vector / np.linalg.norm(vector) for vector in vectors)
    contract = engine.card.embedding_contract
    for person, vector in (("ann", ann), ("bob", bob)):
        body = {
            "embeddings": [{"embedding": vector.tolist(), "face_id": f"{person}-1"}],
            "embedding_contract": contract,
        }
        answer = service.post(f"/v1/galleries/staff/persons/{person}/faces", json=body)
        assert (answer.status_code, answer.json()["enrolled"][0]["face_id"]) == (201, f"{person}-1")
    probe = {"embedding": bob.tolist(), "embedding_contract": contract, "threshold": 0.9}
    found = service.post("/v1/galleries/staff/search", json=probe).json()["probes"][0]
    assert [c["person_id"] for c in found["candidates"]] == ["bob", "ann"]
    assert found["candidates"][0]["similarity"] == pytest.approx(1)
    assert found["candidates"][1]["similarity"] == pytest.approx(float(ann @ bob), abs=1e-5)
    wrong = service.post("/v1/galleries/staff/search", json={**probe, "embedding_contract": "other"})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (409, "model_mismatch")
    taken = service.post(
        "/v1/galleries/staff/persons/ann/faces",
        json={
            "embeddings": [{"embedding": ann.tolist(), "face_id": "bob-1"}],
            "embedding_contract": contract,
        },
    )
    assert (taken.status_code, taken.json()["error"]["code"]) == (409, "conflict")


def test_what_was_answered_survives_a_restart_and_what_was_deleted_stays_deleted(
    engine: Engine,
    store_in: StoreIn,
    tmp_path: Path,
    portrait: bytes,
    portrait_again: bytes,
    group_portraits: list[bytes],
) -> None:
    with opened(engine, store_in, tmp_path) as service:
        make(service, "ann", "bob")
        enrol(service, "ann", portrait)
        enrol(service, "bob", group_portraits[0])
        before = search(service, portrait_again)
        assert service.delete("/v1/galleries/staff/persons/bob").status_code == 204
        assert [c["person_id"] for c in search(service, group_portraits[0])["probes"][0]["candidates"]] == ["ann"]
    with opened(engine, store_in, tmp_path) as service:
        again = search(service, portrait_again)
        assert again["gallery_size"] == {"persons": 1, "faces": 1}
        assert again["probes"][0]["candidates"] == before["probes"][0]["candidates"][:1]
        assert service.delete("/v1/galleries/staff").status_code == 204
        missing = service.post("/v1/galleries/staff/search", files={"image": portrait})
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "gallery_not_found")


def test_a_person_has_metadata_that_searches_can_filter(
    service: TestClient, portrait: bytes, group_portraits: list[bytes]
) -> None:
    make(service)
    for person, photo, floor in (("ann", portrait, 1), ("bob", group_portraits[0], 2)):
        body = {"metadata": {"floor": floor, "badge": True}}
        assert service.put(f"/v1/galleries/staff/persons/{person}", json=body).status_code == 201
        enrol(service, person, photo)
    everyone = search(service, portrait, filter=json.dumps({"badge": True}))
    assert [c["person_id"] for c in everyone["probes"][0]["candidates"]] == ["ann", "bob"]
    upstairs = search(service, portrait, filter=json.dumps({"floor": 2}))
    assert [c["person_id"] for c in upstairs["probes"][0]["candidates"]] == ["bob"]
    assert upstairs["gallery_size"]["persons"] == 1
    listed = service.get("/v1/galleries/staff/persons", params={"filter": json.dumps({"floor": 1})}).json()
    assert [person["id"] for person in listed["persons"]] == ["ann"]
    patched = service.patch("/v1/galleries/staff/persons/ann", json={"name": "Ann"}).json()
    assert (patched["name"], patched["metadata"]) == ("Ann", {"floor": 1, "badge": True})


def test_lists_are_paged(service: TestClient) -> None:
    make(service, *(f"p{i}" for i in range(5)))
    seen, cursor = [], None
    while True:
        page = service.get("/v1/galleries/staff/persons", params={"limit": 2, **({"cursor": cursor} if cursor else {})})
        seen += [person["id"] for person in page.json()["persons"]]
        cursor = page.json()["cursor"]
        if cursor is None:
            break
    assert seen == [f"p{i}" for i in range(5)]
    assert [g["id"] for g in service.get("/v1/galleries").json()["galleries"]] == ["staff"]


def test_an_enrolled_person_is_verified(
    service: TestClient, portrait: bytes, portrait_again: bytes, group_portraits: list[bytes]
) -> None:
    make(service, "ann")
    path = "/v1/galleries/staff/persons/ann/verify"
    empty = service.post(path, files={"image": portrait_again})
    assert (empty.status_code, empty.json()["error"]["code"]) == (404, "person_not_found")
    enrol(service, "ann", group_portraits[1], portrait)
    assert service.post(path, files={"image": portrait_again}).json()["match"] is True
    assert service.post(path, files={"image": group_portraits[2]}, data={"faces": "largest"}).json()["match"] is False


def test_several_photos_stand_for_a_person_by_their_mean(
    service: TestClient, engine: Engine, portrait: bytes, portrait_again: bytes, group_portraits: list[bytes]
) -> None:
    make(service, "ann")
    ids = [face["face_id"] for face in enrol(service, "ann", portrait, portrait_again)["enrolled"]]
    path = "/v1/galleries/staff/persons/ann"
    photos = (group_portraits[1], portrait, portrait_again)
    probe, *faces = (engine.subject(photo, "largest", "photo", "off").embedded.embedding for photo in photos)
    mean = sum(faces) / np.linalg.norm(sum(faces))

    def answers() -> tuple[dict[str, Any], dict[str, Any]]:
        [[found]] = [p["candidates"] for p in search(service, photos[0], faces="largest")["probes"]]
        verified = service.post(f"{path}/verify", files={"image": photos[0]}, data={"faces": "largest"}).json()
        assert verified["similarity"] == pytest.approx(found["similarity"], abs=1e-6)
        return found, verified["operating_point"]

    both, two = answers()
    assert both["similarity"] == pytest.approx(float(mean @ probe), abs=1e-5)
    nearest = int(np.argmax([face @ probe for face in faces]))
    assert both["face_id"] == ids[nearest]
    assert service.delete(f"{path}/faces/{ids[nearest]}").status_code == 204
    left, one = answers()
    assert left["face_id"] == ids[1 - nearest]
    assert left["similarity"] == pytest.approx(float(faces[1 - nearest] @ probe), abs=1e-5)
    assert one["fmr"] == two["fmr"]
    assert one["threshold"] < two["threshold"]
    assert one["fnmr"] > two["fnmr"]


def test_one_face_is_listed_and_deleted(service: TestClient, portrait: bytes, portrait_again: bytes) -> None:
    make(service, "ann")
    enrolled = enrol(service, "ann", portrait, portrait_again)["enrolled"]
    path = "/v1/galleries/staff/persons/ann/faces"
    assert {f["face_id"] for f in service.get(path).json()["faces"]} == {f["face_id"] for f in enrolled}
    assert service.delete(f"{path}/{enrolled[0]['face_id']}").status_code == 204
    assert search(service, portrait)["probes"][0]["candidates"][0]["face_id"] == enrolled[1]["face_id"]
    gone = service.delete(f"{path}/{enrolled[0]['face_id']}")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "face_id_not_found")


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/v1/galleries/none", "gallery_not_found"),
        ("DELETE", "/v1/galleries/none", "gallery_not_found"),
        ("GET", "/v1/galleries/staff/persons/none", "person_not_found"),
        ("DELETE", "/v1/galleries/staff/persons/none", "person_not_found"),
        ("GET", "/v1/galleries/staff/persons/none/faces", "person_not_found"),
        ("DELETE", "/v1/galleries/staff/persons/ann/faces/none", "face_id_not_found"),
    ],
)
def test_what_is_not_there_is_404(service: TestClient, method: str, path: str, code: str) -> None:
    make(service, "ann")
    answer = service.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, code)


def test_a_search_has_one_rate_and_its_limits(service: TestClient, portrait: bytes) -> None:
    make(service, "ann")
    enrol(service, "ann", portrait)
    strict = search(service, portrait, fpir="0.001")["operating_point"]
    lax = search(service, portrait, fpir="0.05")["operating_point"]
    assert strict["threshold"] > lax["threshold"]
    assert strict["fpir"] == pytest.approx(0.001)
    for fields in (
        {"fpir": "1e-9"},
        {"fpir": "0.1", "fmr": "0.1"},
        {"top_k": "0"},
        {"top_k": "101"},
        {"filter": "[1]"},
        {"filter": "[" * 4000},
        {"filter": '{"a": NaN}'},
    ):
        answer = service.post("/v1/galleries/staff/search", files={"image": portrait}, data=fields)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request"), fields


@pytest.mark.parametrize("bad", ["a b", "x" * 129, "ä", "a%2Fb"])
def test_ids_are_plain(service: TestClient, bad: str) -> None:
    answer = service.put(f"/v1/galleries/{bad}", json={})
    assert answer.status_code in (404, 422)
    assert answer.json()["error"]["code"] == "invalid_request"


def test_a_slash_at_the_end_leads_to_nothing_else(service: TestClient) -> None:
    make(service, "ann")
    # What browsers and curl make of `/v1/galleries/staff/persons/..`, and of `…/persons/ann/faces/..`.
    for path in ("/v1/galleries/staff/", "/v1/galleries/staff/persons/ann/"):
        answer = service.delete(path)
        assert (answer.status_code, answer.json()["error"]["code"], answer.history) == (404, "invalid_request", [])
    assert service.get("/v1/galleries/staff/persons/ann").status_code == 200
