"""What can be wrong with a request: each gets its own refusal in the common shape, never a 500, and soon."""

import base64
import io
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from service.api.app import create_app
from service.engine import Engine
from service.settings import Settings

PHOTO_CALLS = ["/v1/detect", "/v1/embed"]


def refused(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """Checks the envelope; returns the error."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error", "request_id"}
    assert set(body["error"]) == {"code", "message", "details"}
    assert body["error"]["code"] == code
    assert body["error"]["message"]
    assert body["request_id"] == answer.headers["x-request-id"]
    error: dict[str, Any] = body["error"]
    return error


def png(width: int, height: int, rows: int) -> bytes:
    """A one-bit PNG whose header promises width × height and that holds ``rows`` of it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(((width + 7) // 8 + 1) * rows), 9)  # each row begins with its filter
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.fixture(params=PHOTO_CALLS)
def call(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_text_file_called_jpg(client: TestClient, call: str) -> None:
    refused(client.post(call, files={"image": ("me.jpg", b"hello, I am text")}), 415, "unsupported_media_type")


def test_an_empty_file(client: TestClient, call: str) -> None:
    refused(client.post(call, files={"image": ("me.jpg", b"")}), 422, "invalid_image")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_jpeg(client: TestClient, call: str, portrait: bytes, kept: float) -> None:
    cut = portrait[: int(len(portrait) * kept)]
    refused(client.post(call, files={"image": ("me.jpg", cut)}), 422, "invalid_image")


def test_a_single_pixel(client: TestClient) -> None:
    answer = client.post("/v1/detect", files={"image": ("one.png", png(1, 1, 1))})
    assert answer.status_code == 200
    assert answer.json() == {"image": {"width": 1, "height": 1}, "faces": []}
    refused(client.post("/v1/embed", files={"image": ("one.png", png(1, 1, 1))}), 422, "face_not_found")


def test_a_huge_png_is_refused_from_its_header(client: TestClient, call: str) -> None:
    bomb = png(50_000, 50_000, 9_000)
    assert 50_000 < len(bomb) < 70_000
    start = time.perf_counter()
    error = refused(client.post(call, files={"image": ("big.png", bomb)}), 413, "image_too_large")
    assert error["details"]["width"] == 50_000
    # Decoding it would take tens of seconds and 2.5 GB.
    assert time.perf_counter() - start < 5


def test_an_image_of_another_kind(client: TestClient, call: str) -> None:
    gif = io.BytesIO()
    Image.new("RGB", (20, 20)).save(gif, "GIF")
    error = refused(client.post(call, files={"image": ("me.gif", gif.getvalue())}), 415, "unsupported_media_type")
    assert error["details"]["accepted"] == ["JPEG", "PNG", "WEBP", "BMP"]


@pytest.mark.parametrize("path", ["/v1/detect", "/v1/embed", "/v1/verify", "/v1/compare"])
def test_no_body_at_all(client: TestClient, path: str) -> None:
    refused(client.post(path), 400, "invalid_request")


def test_an_empty_multipart_body(client: TestClient, call: str) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"}
    error = refused(client.post(call, content=b"", headers=headers), 422, "invalid_request")
    assert error["details"]["fields"][0]["field"] == "image"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"no boundary", "multipart/form-data; boundary=x"),
        (b"anything", "multipart/form-data"),
        (b"{", "application/json"),
        (b"\xff\xfe", "application/json"),
        (b"[1]", "application/json"),
        (b"null", "application/json"),
        (b"[" * 100_000, "application/json"),
        (b'{"image": NaN}', "application/json"),
    ],
)
def test_a_body_that_is_not_well_formed(client: TestClient, call: str, body: bytes, content_type: str) -> None:
    refused(client.post(call, content=body, headers={"content-type": content_type}), 400, "invalid_request")


@pytest.mark.parametrize("content_type", ["text/plain", "image/jpeg", "application/x-www-form-urlencoded"])
def test_a_body_of_another_type(client: TestClient, call: str, portrait: bytes, content_type: str) -> None:
    answer = client.post(call, content=portrait, headers={"content-type": content_type})
    error = refused(answer, 415, "unsupported_media_type")
    assert error["details"]["accepted"] == ["application/json", "multipart/form-data"]


def test_a_hundred_parts(client: TestClient, call: str, portrait: bytes) -> None:
    files = [("image", (f"{i}.jpg", portrait)) for i in range(100)]
    refused(client.post(call, files=files), 400, "invalid_request")
    fields = {f"field{i}": "1" for i in range(100)}
    refused(client.post(call, files={"image": ("a.jpg", portrait)}, data=fields), 400, "invalid_request")


def test_a_field_sent_twice(client: TestClient, call: str, portrait: bytes) -> None:
    files = [("image", ("a.jpg", portrait)), ("image", ("b.jpg", portrait))]
    assert refused(client.post(call, files=files), 422, "invalid_request")["details"] == {"field": "image"}


def test_an_unknown_field(client: TestClient, call: str, portrait: bytes) -> None:
    answer = client.post(call, files={"image": ("a.jpg", portrait)}, data={"colour": "red"})
    assert refused(answer, 422, "invalid_request")["details"]["fields"][0]["field"] == "colour"


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/detect", {"max_faces": "many"}),
        ("/v1/detect", {"max_faces": "0"}),
        ("/v1/embed", {"faces": "some"}),
        ("/v1/embed", {"encoding": "hex"}),
    ],
)
def test_a_wrong_type_or_value(client: TestClient, portrait: bytes, path: str, fields: dict[str, str]) -> None:
    answer = client.post(path, files={"image": ("a.jpg", portrait)}, data=fields)
    assert refused(answer, 422, "invalid_request")["details"]["fields"][0]["field"] == next(iter(fields))


@pytest.mark.parametrize(
    "fields",
    [{"fmr": "nan"}, {"fmr": "0"}, {"fmr": "1.5"}, {"threshold": "2"}, {"threshold": "inf"}, {"faces": "all"}],
)
def test_an_operating_point_that_is_none(client: TestClient, portrait: bytes, fields: dict[str, str]) -> None:
    files = {"image_a": ("a.jpg", portrait), "image_b": ("b.jpg", portrait)}
    refused(client.post("/v1/verify", files=files, data=fields), 422, "invalid_request")


def test_both_a_rate_and_a_threshold(client: TestClient, portrait: bytes) -> None:
    files = {"image_a": ("a.jpg", portrait), "image_b": ("b.jpg", portrait)}
    error = refused(
        client.post("/v1/verify", files=files, data={"fmr": "1e-3", "threshold": "0.4"}), 422, "invalid_request"
    )
    assert "not both" in error["message"]


@pytest.mark.parametrize(
    "image",
    ["text", 1, None, [], {}, {"base64": 1}, {"base64": "§"}, {"base64": "AAA"}, {"base64": "AAAA", "url": "x"}],
)
def test_a_json_photo_that_is_none(client: TestClient, call: str, image: object) -> None:
    refused(client.post(call, json={"image": image}), 422, "invalid_request")


def test_json_types_are_strict(client: TestClient, portrait: bytes) -> None:
    photo = {"base64": base64.b64encode(portrait).decode()}
    refused(client.post("/v1/detect", json={"image": photo, "max_faces": "3"}), 422, "invalid_request")
    refused(client.post("/v1/detect", json={"image": photo, "max_faces": True}), 422, "invalid_request")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400", "-1e999", '"1"', "true", "null"])
def test_numbers_that_are_none(client: TestClient, engine: Engine, number: str) -> None:
    body = f'{{"a": [{number}], "b": [1], "embedding_contract": "{engine.card.embedding_contract}"}}'
    answer = client.post("/v1/compare", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["code"] == "invalid_request"


def test_a_body_over_the_limit(engine: Engine, portrait: bytes) -> None:
    limit = 100_000
    with TestClient(create_app(engine, Settings(max_body_bytes=limit)), raise_server_exceptions=False) as small:
        announced = small.post("/v1/detect", files={"image": ("a.jpg", portrait + bytes(limit))})
        assert refused(announced, 413, "image_too_large")["details"] == {"max_body_bytes": limit}

        def chunks() -> Iterator[bytes]:
            for _ in range(200):
                yield b" " * 1000

        unannounced = small.post("/v1/detect", content=chunks(), headers={"content-type": "application/json"})
        refused(unannounced, 413, "image_too_large")
        assert small.post("/v1/detect", files={"image": ("a.jpg", portrait)}).status_code == 200


def test_an_unknown_path_or_method(client: TestClient) -> None:
    refused(client.get("/v1/nothing"), 404, "invalid_request")
    error = client.get("/v1/verify")
    refused(error, 405, "invalid_request")
    assert error.headers["allow"] == "POST"


@pytest.mark.parametrize("depth", [100, 2000, 100_000])
def test_json_that_is_deep(client: TestClient, depth: int) -> None:
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        deep = opening * depth + ("1" if opening != "[" else "") + closing * depth
        body = f'{{"image": {deep}}}'.encode()
        answer = client.post("/v1/detect", content=body, headers={"content-type": "application/json"})
        refused(answer, answer.status_code, "invalid_request")
        assert answer.status_code in (400, 422)
