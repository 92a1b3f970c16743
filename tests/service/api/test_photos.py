"""detect, embed, verify and compare, as a caller sees them."""

import base64

import numpy as np
import pytest
from fastapi.testclient import TestClient

from service.engine import Engine


def as_files(**photos: bytes) -> dict[str, tuple[str, bytes]]:
    return {name: (f"{name}.jpg", content) for name, content in photos.items()}


def as_base64(photo: bytes) -> dict[str, str]:
    return {"base64": base64.b64encode(photo).decode()}


def test_two_photos_of_one_person_match(client: TestClient, portrait: bytes, portrait_again: bytes) -> None:
    answer = client.post("/v1/verify", files=as_files(image_a=portrait, image_b=portrait_again))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["match"] is True
    assert body["similarity"] >= body["operating_point"]["threshold"]
    assert body["operating_point"]["fmr"] == pytest.approx(1e-4)
    assert 0 < body["operating_point"]["fnmr"] < 0.1
    assert body["faces_found"] == [1, 1]
    assert set(body["face_a"]) == {"box", "landmarks", "detection_score", "quality"}


def test_photos_of_different_people_do_not_match(
    client: TestClient, portrait: bytes, group_portraits: list[bytes]
) -> None:
    assert len(group_portraits) == 6
    for other in group_portraits:
        files = as_files(image_a=portrait, image_b=other)
        body = client.post("/v1/verify", files=files, data={"faces": "largest"}).json()
        assert body["match"] is False
        assert -1 <= body["similarity"] < body["operating_point"]["threshold"]


def test_json_and_multipart_give_the_same_answer(client: TestClient, portrait: bytes, portrait_again: bytes) -> None:
    multipart = client.post(
        "/v1/verify", files=as_files(image_a=portrait, image_b=portrait_again), data={"fmr": "1e-3"}
    )
    in_json = client.post(
        "/v1/verify", json={"image_a": as_base64(portrait), "image_b": as_base64(portrait_again), "fmr": 1e-3}
    )
    assert multipart.status_code == in_json.status_code == 200
    assert multipart.json() == in_json.json()


def test_the_operating_point_is_the_one_asked_for(client: TestClient, portrait: bytes) -> None:
    files = as_files(image_a=portrait, image_b=portrait)
    points = {
        fmr: client.post("/v1/verify", files=files, data={"fmr": str(fmr)}).json()["operating_point"]
        for fmr in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
    }
    thresholds = [point["threshold"] for point in points.values()]
    assert thresholds == sorted(thresholds)
    assert all(point["fmr"] == fmr for fmr, point in points.items())
    raw = client.post("/v1/verify", files=files, data={"threshold": "0.99999"}).json()
    assert raw["operating_point"]["threshold"] == 0.99999
    assert raw["operating_point"]["fmr"] is None
    measured = {p["fmr"]: p for p in client.get("/v1/info").json()["operating_points"]}
    assert measured[1e-4] == points[1e-4]


def test_a_rate_beyond_the_data_is_extrapolated_only_when_asked_and_says_so(
    client: TestClient, portrait: bytes
) -> None:
    files = as_files(image_a=portrait, image_b=portrait)
    body = client.post("/v1/verify", files=files, data={"fmr": "1e-8", "extrapolate": "true"}).json()
    point = body["operating_point"]
    assert (point["fmr"], point["extrapolated"]) == (1e-8, True)
    assert point["fmr_interval"][0] <= 1e-8 <= point["fmr_interval"][1]
    calibration = client.get("/v1/info").json()["calibration"]
    assert calibration["calibration_id"] == point["calibration_id"]
    assert calibration["smallest_extrapolated_fmr"] < 1e-8 < calibration["smallest_fmr"]
    assert calibration["impostor"] > 8e7
    refused = client.post("/v1/verify", files=files, data={"fmr": "1e-8"})
    assert refused.status_code == 422
    assert "extrapolate=true" in refused.json()["error"]["message"]


def test_a_rate_that_the_data_cannot_support_is_refused(client: TestClient, portrait: bytes) -> None:
    files = as_files(image_a=portrait, image_b=portrait)
    answer = client.post("/v1/verify", files=files, data={"fmr": "1e-9"})
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["code"] == "invalid_request"
    assert 1e-7 < error["details"]["smallest_fmr"] < 1e-6


def test_detect_lists_everyone_largest_first(client: TestClient, group_photo: bytes) -> None:
    body = client.post("/v1/detect", files=as_files(image=group_photo)).json()
    assert body["image"] == {"width": 1280, "height": 886}
    areas = [face["box"]["width"] * face["box"]["height"] for face in body["faces"]]
    assert len(areas) == 6
    assert areas == sorted(areas, reverse=True)
    for face in body["faces"]:
        left_eye, right_eye, nose, left_mouth, right_mouth = face["landmarks"]
        assert left_eye[0] < right_eye[0]
        assert left_mouth[0] < right_mouth[0]
        assert left_eye[1] < nose[1] < right_mouth[1]
        assert 0.6 <= face["detection_score"] <= 1
        assert face["quality"]["inter_eye_distance"] == pytest.approx(
            np.hypot(*np.subtract(right_eye, left_eye)), abs=0.05
        )
    first_two = client.post("/v1/detect", files=as_files(image=group_photo), data={"max_faces": "2"}).json()
    assert first_two["faces"] == body["faces"][:2]


def test_a_photo_without_a_face_is_an_ordinary_answer_to_detect(client: TestClient, scenery: bytes) -> None:
    answer = client.post("/v1/detect", files=as_files(image=scenery))
    assert answer.status_code == 200
    assert answer.json()["faces"] == []


def test_nobody_is_chosen_silently(client: TestClient, group_photo: bytes, portrait: bytes, scenery: bytes) -> None:
    several = client.post("/v1/verify", files=as_files(image_a=portrait, image_b=group_photo))
    assert several.status_code == 422
    error = several.json()["error"]
    assert error["code"] == "multiple_faces"
    assert error["details"]["image"] == "image_b"
    assert len(error["details"]["boxes"]) == 6
    nobody = client.post("/v1/verify", files=as_files(image_a=scenery, image_b=portrait)).json()["error"]
    assert (nobody["code"], nobody["details"]["image"]) == ("face_not_found", "image_a")
    chosen = client.post("/v1/verify", files=as_files(image_a=portrait, image_b=group_photo), data={"faces": "largest"})
    assert chosen.status_code == 200
    assert chosen.json()["faces_found"] == [1, 6]


def test_embeddings_come_as_numbers_or_as_base64_of_the_same(client: TestClient, group_photo: bytes) -> None:
    numbers = client.post("/v1/embed", files=as_files(image=group_photo), data={"faces": "all"}).json()
    packed = client.post(
        "/v1/embed", files=as_files(image=group_photo), data={"faces": "all", "encoding": "base64"}
    ).json()
    assert len(numbers["faces"]) == len(packed["faces"]) == 6
    for plain, coded in zip(numbers["faces"], packed["faces"], strict=True):
        vector = np.frombuffer(base64.b64decode(coded["embedding"]), "<f4")
        assert np.linalg.norm(vector.astype(np.float64)) == pytest.approx(1, abs=1e-5)
        assert np.array_equal(vector, np.array(plain["embedding"], np.float32))
        assert plain["feature_norm"] > 0
    info = client.get("/v1/info").json()
    assert numbers["embedding_contract"] == info["embedding_contract"]
    assert len(numbers["faces"][0]["embedding"]) == info["embedding_dimension"]


def test_no_face_to_embed(client: TestClient, scenery: bytes) -> None:
    everyone = client.post("/v1/embed", files=as_files(image=scenery), data={"faces": "all"})
    assert (everyone.status_code, everyone.json()["faces"]) == (200, [])
    one = client.post("/v1/embed", files=as_files(image=scenery))
    assert (one.status_code, one.json()["error"]["code"]) == (422, "face_not_found")


def test_compare_agrees_with_verify(client: TestClient, portrait: bytes, portrait_again: bytes) -> None:
    a, b = (client.post("/v1/embed", files=as_files(image=photo)).json() for photo in (portrait, portrait_again))
    compared = client.post(
        "/v1/compare",
        json={
            "a": a["faces"][0]["embedding"],
            "b": b["faces"][0]["embedding"],
            "embedding_contract": a["embedding_contract"],
        },
    ).json()
    verified = client.post("/v1/verify", files=as_files(image_a=portrait, image_b=portrait_again)).json()
    assert compared["similarity"] == pytest.approx(verified["similarity"], abs=1e-5)
    assert compared["match"] is True
    assert compared["operating_point"] == verified["operating_point"]


def test_embeddings_of_another_contract_are_not_compared(client: TestClient, engine: Engine) -> None:
    unit = [1.0] + [0.0] * (engine.card.contract.dimension - 1)
    answer = client.post("/v1/compare", json={"a": unit, "b": unit, "embedding_contract": "0" * 64})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "model_mismatch")


@pytest.mark.parametrize(
    ("vector", "problem"),
    [([1.0, 0.0], "2 components"), ([0.5] * 128, "length"), ([0.0] * 128, "length"), ([1.0] * 129, "129 components")],
)
def test_what_is_no_embedding_is_not_compared(
    client: TestClient, engine: Engine, vector: list[float], problem: str
) -> None:
    unit = [1.0] + [0.0] * 127
    contract = engine.card.embedding_contract
    answer = client.post("/v1/compare", json={"a": unit, "b": vector, "embedding_contract": contract})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")
    assert problem in answer.json()["error"]["message"]
