"""The gallery doctor and the limits on photos over HTTP, on real photos with planted faults."""

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image, ImageFilter

from service.api.app import create_app
from service.engine import Engine
from service.gallery.gallery import Galleries
from service.gallery.store import Store
from service.settings import Settings


@pytest.fixture
def service(engine: Engine, store_in: Callable[[Path], Store], tmp_path: Path) -> Iterator[TestClient]:
    store = store_in(tmp_path)
    galleries = Galleries(store, engine.card.embedding_contract, engine.card.contract.dimension)
    with TestClient(create_app(engine, Settings(), galleries)) as client:
        while client.get("/v1/health/ready").status_code == 503:
            time.sleep(0.01)
        yield client
    store.close()


def put(service: TestClient, person: str, photo: bytes, **fields: str) -> Any:
    service.put("/v1/galleries/staff", json={})
    service.put(f"/v1/galleries/staff/persons/{person}", json={})
    files = {"images": ("photo.jpg", photo)}
    return service.post(f"/v1/galleries/staff/persons/{person}/faces", files=files, data=fields)


def blurred(photo: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(photo)).filter(ImageFilter.GaussianBlur(8)).save(buffer, "jpeg", quality=92)
    return buffer.getvalue()


@pytest.fixture
def sick(service: TestClient, portrait: bytes, portrait_again: bytes, group_portraits: list[bytes]) -> TestClient:
    """Ann again as anna, one of the first friend's faces under the second, a blurred third."""
    assert put(service, "ann", portrait).status_code == 201
    assert put(service, "anna", portrait_again).status_code == 201
    for person in ("first", "second", "other"):
        assert put(service, person, group_portraits[("first", "second", "other").index(person)]).status_code == 201
    assert put(service, "second", group_portraits[0], face_ids="wrong").status_code == 201
    assert put(service, "blurred", blurred(group_portraits[3]), quality="off").status_code == 201
    return service


def test_the_report_names_what_is_wrong(sick: TestClient) -> None:
    answer = sick.get("/v1/galleries/staff/report")
    assert answer.status_code == 200, answer.text
    report = answer.json()
    assert (report["gallery"], report["persons"], report["faces"]) == ("staff", 6, 7)
    assert ["ann", "anna"] in [pair["person_ids"] for pair in report["duplicates"]]
    [wrong] = report["mislabelled"]
    # Of second's two faces, the first friend's.
    assert (wrong["person_id"], wrong["face_id"]) == ("second", "wrong")
    assert wrong["nearer_to"]["person_id"] == "first"
    assert wrong["own_similarity"] < 0.4 < wrong["similarity"]
    assert [poor["person_id"] for poor in report["poor_persons"]] == ["blurred"]
    assert "blurred" in report["poor_persons"][0]["reasons"]
    assert [score["calibration_fmr"] for score in report["impostor_scores"]] == [1e-1, 1e-2, 1e-3, 1e-4, 1e-5]
    for rate in report["expected_fpir"]:
        assert rate["threshold_grown"] > rate["threshold"]
        assert rate["expected_grown_same_threshold"] > rate["expected"] > 0
    point = sick.get("/v1/info").json()["calibration"]
    assert report["calibration_id"] == point["calibration_id"]


def test_an_empty_gallery_has_nothing_wrong(service: TestClient) -> None:
    service.put("/v1/galleries/staff", json={})
    report = service.get("/v1/galleries/staff/report").json()
    assert (report["faces"], report["duplicates"], report["poor_persons"]) == (0, [], [])
    assert service.get("/v1/galleries/none/report").json()["error"]["code"] == "gallery_not_found"


def test_a_photo_below_the_limits_is_not_enrolled_but_told_why(
    service: TestClient, group_portraits: list[bytes]
) -> None:
    poor = blurred(group_portraits[3])
    answer = put(service, "ann", poor)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "face_quality_too_low")
    [rejected] = answer.json()["error"]["details"]["rejected"]
    assert rejected["code"] == "face_quality_too_low"
    assert "blurred (sharpness" in rejected["message"]
    assert put(service, "ann", poor, quality="off").status_code == 201
    enrolled = service.get("/v1/galleries/staff/persons/ann/faces").json()["faces"][0]["quality"]
    assert enrolled["feature_norm"] > 0
    files = {"image_a": ("a.jpg", poor), "image_b": ("b.jpg", poor)}
    assert service.post("/v1/verify", files=files).json()["match"] is True
    refused = service.post("/v1/verify", files=files, data={"quality": "enrol"}).json()["error"]
    assert refused["code"] == "face_quality_too_low"
    assert {"image", "policy", "reasons"} <= set(refused["details"])
