"""Bundles in other precisions, as `likeness quantize` makes them of the real default bundle."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from service.api.app import create_app
from service.cli.main import main
from service.engine import Engine, load_engine
from service.runtime.bundle import open_bundle
from service.settings import Settings

FORMS = {"float16": 0.9999, "int8-weights": 0.999}
Crops = NDArray[np.uint8]
Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def run(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command; its exit code and the object that it prints."""

    def quantize(*arguments: object, bundle: object = "open") -> tuple[int, dict[str, Any]]:
        words = ["quantize", str(bundle), *map(str, arguments), "--data-dir", str(data_dir), "--json"]
        code = main(words)
        return code, json.loads(capsys.readouterr().out)

    return quantize


@pytest.fixture(scope="module")
def crops(engine: Engine, group_photo: bytes) -> Crops:
    image, faces = engine.detect(group_photo)
    return np.stack([engine.recognizer.crop(image, found.face) for found in faces])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, engine: Engine, group_photo: bytes) -> Path:
    """18 photos: the six people of one, cut out three times, brighter each time."""
    folder = tmp_path_factory.mktemp("photos")
    image, faces = engine.detect(group_photo)
    for number, found in enumerate(faces):
        x1, y1, x2, y2 = (int(v) for v in found.face.box)
        cut = image.pixels[max(0, y1 - 40) : y2 + 40, max(0, x1 - 40) : x2 + 40, ::-1].astype(int)
        for photo in range(3):
            cv2.imwrite(str(folder / f"{number}-{photo}.jpg"), np.clip(cut + 15 * photo, 0, 255).astype(np.uint8))
    return folder


@pytest.mark.parametrize("precision", FORMS)
def test_half_the_size_is_offered_with_its_figures(
    run: Run, tmp_path: Path, engine: Engine, crops: Crops, precision: str
) -> None:
    out = tmp_path / "form"
    code, found = run("--precision", precision, "--out", out)
    assert code == 0
    report, card = found["report"], open_bundle(out).card
    assert found["card"] == card.model_dump(mode="json")
    sizes = card.embedder.size, engine.card.embedder.size
    assert report["size"] == pytest.approx(sizes[0] / sizes[1], abs=1e-4)
    assert report["size"] < 0.51
    assert (card.contract.precision, card.calibration, report["refused"]) == (precision, None, [])
    assert card.embedding_contract != engine.card.embedding_contract

    served = load_engine(Settings(bundle=str(out)))
    one, other = engine.recognizer.embedder(crops)[0], served.recognizer.embedder(crops)[0]
    assert other.dtype == np.float32
    assert np.abs(np.linalg.norm(other.astype(np.float64), axis=1) - 1).max() < 1e-5
    cosines = np.sum(one.astype(np.float64) * other, axis=1)
    assert cosines.min() == pytest.approx(card.parity.min_cosine, abs=1e-5)
    # Rounded, and not the same network under another name.
    assert FORMS[precision] <= cosines.min() < 1 - 1e-7


def test_embeddings_of_two_precisions_are_not_compared(
    run: Run, tmp_path: Path, engine: Engine, astronaut: bytes
) -> None:
    out = tmp_path / "form"
    run("--precision", "int8-weights", "--out", out)
    services = [engine, load_engine(Settings(bundle=str(out)))]
    given = []
    for service in services:
        with TestClient(create_app(service, Settings())) as client:
            answer = client.post("/v1/embed", files={"image": astronaut}).json()
            given.append((answer["faces"][0]["embedding"], answer["embedding_contract"]))
    for service, (embedding, contract) in zip(services, reversed(given), strict=True):
        with TestClient(create_app(service, Settings())) as client:
            body = {"a": embedding, "b": embedding, "embedding_contract": contract, "threshold": 0.4}
            refused = client.post("/v1/compare", json=body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "model_mismatch")
            own = client.post("/v1/compare", json=body | {"embedding_contract": service.card.embedding_contract})
            assert own.status_code == 200


def test_int8_is_made_only_if_it_is_worth_it_and_good_enough(run: Run, tmp_path: Path, photos: Path) -> None:
    out = tmp_path / "int8"
    code, found = run("--precision", "int8", "--photos", photos, "--out", out)
    report = found["report"] if code == 0 else found["error"]["details"]
    assert report["calibration_crops"] == 18
    bad = report["parity"]["min_cosine"] < 0.99 or report["parity"]["max_batch_deviation"] > 1e-2
    useless = report["speedup"] < 1.05 and report["size"] > 0.51
    assert (code, bool(report["refused"]), out.exists()) == ((4, True, False) if bad or useless else (0, False, True))


def test_past_its_limit_there_is_no_bundle(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half_an_octave_off(weight: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.abs(weight) * np.float32(0.7)

    from export import precision

    exact = precision._stored_as_int8
    monkeypatch.setattr(
        precision, "_stored_as_int8", lambda graph, node, weight: exact(graph, node, half_an_octave_off(weight))
    )
    code, found = run("--precision", "int8-weights", "--out", tmp_path / "form")
    assert code == 4
    assert any("the cosine to the published embedder" in reason for reason in found["error"]["details"]["refused"])
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_asked_for_is_refused(run: Run, tmp_path: Path, photos: Path) -> None:
    form = tmp_path / "form"
    assert run("--precision", "float16", "--out", form)[0] == 0

    def message(*arguments: object, **bundle: object) -> str:
        code, found = run("--out", tmp_path / "other", *arguments, **bundle)
        assert code == 2
        return str(found["error"]["message"])

    assert "is float16, and int8-weights is asked for" in message("--precision", "int8-weights", bundle=form)
    assert "int8 is calibrated on faces; give a folder" in message("--precision", "int8")
    assert "float16 needs no calibration" in message("--precision", "float16", "--photos", photos)
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "one.jpg").write_bytes((photos / "0-0.jpg").read_bytes())
    assert "has 1 photos with a face among 1; 16 are needed" in message(
        "--precision", "int8", "--photos", tmp_path / "few"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"form", "few"}
