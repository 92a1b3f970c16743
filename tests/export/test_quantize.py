"""Other precisions: what they are, that they are offered only where it is worth it, and that they never mix."""

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper
from PIL import Image, ImageOps

from export import quantize as module
from export.accuracy import Lfw, compare_accuracy
from export.parity import LIMITS, face_crops
from export.precision import to_float16, to_int8, to_int8_weights
from export.quantize import QuantizeOptions, Report, quantize
from service.api.app import create_app
from service.cli.main import main
from service.engine import Engine, load_engine
from service.errors import BundleError, InvalidRequest
from service.recognition.recognizer import Recognizer
from service.runtime.bundle import Bundle, open_bundle
from service.runtime.card import Card
from service.runtime.networks import RuntimeOptions, open_session
from service.settings import Settings

Crops = NDArray[np.uint8]
Made = tuple[Path, Card, Report]


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> ModelProto:
    return onnx.load_model_from_string(bundle.embedder)


@pytest.fixture(scope="module")
def crops(recognizer: Recognizer) -> Crops:
    """Six real faces."""
    return face_crops(recognizer)


@pytest.fixture(scope="module")
def int8_weights(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Made:
    out = tmp_path_factory.mktemp("quantized") / "open-small"
    return out, *quantize(bundle.path, out, QuantizeOptions("int8-weights"))


def embed(model: ModelProto | bytes, crops: Crops) -> NDArray[np.float32]:
    content = model if isinstance(model, bytes) else model.SerializeToString()
    found: NDArray[np.float32] = open_session(content, RuntimeOptions("cpu")).run(["embedding"], {"crops": crops})[0]
    return found


def element_types(model: ModelProto) -> dict[int, int]:
    """How many values the file keeps of each type."""
    found: dict[int, int] = {}
    for tensor in model.graph.initializer:
        found[tensor.data_type] = found.get(tensor.data_type, 0) + int(np.prod(tensor.dims))
    return found


def test_float16_halves_the_weights_and_keeps_the_embedding(model: ModelProto, crops: Crops) -> None:
    half = to_float16(model)
    types = element_types(half)
    assert types[TensorProto.FLOAT16] > 9_000_000
    assert types[TensorProto.FLOAT] < 600  # a batch norm behind the last product
    given = {i.name: i.type.tensor_type.elem_type for i in (*half.graph.input, *half.graph.output)}
    assert given == {"crops": TensorProto.UINT8, "embedding": TensorProto.FLOAT, "feature_norm": TensorProto.FLOAT}
    cosines = np.sum(embed(half, crops) * embed(model, crops), axis=1)
    assert 0.9999 < cosines.min() < 0.9999999


def test_int8_weights_are_the_rounded_ones_and_are_calculated_with_in_float32(model: ModelProto, crops: Crops) -> None:
    small = to_int8_weights(model)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in small.graph.initializer}
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    exact = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == gemm.input[1]))
    name = f"{gemm.output[0]}/weight"
    assert stored[f"{name}/int8"].dtype == np.int8
    again = (stored[f"{name}/int8"].astype(np.float64) * stored[f"{name}/scale"]).reshape(exact.shape)
    # Half a step at most, and a step is a 127th of the largest weight of those that share a scale.
    half_step = stored[f"{name}/scale"] / 2 * (1 + 1e-5)  # the scale is rounded, too
    assert (np.abs(again - exact).reshape(stored[f"{name}/int8"].shape) <= half_step).all()
    assert np.abs(stored[f"{name}/int8"]).max() == 127

    # What ONNX Runtime calculates with is those weights put back into the graph as they are.
    plain = onnx.load_model_from_string(model.SerializeToString())
    for tensor in plain.graph.initializer:
        reader = next(n for n in plain.graph.node if tensor.name in n.input)
        if (key := f"{reader.output[0]}/weight/int8") in stored and reader.input[1] == tensor.name:
            value = stored[key].astype(np.float32) * stored[key.replace("int8", "scale")]
            tensor.CopyFrom(numpy_helper.from_array(value.reshape(tuple(tensor.dims)), tensor.name))
    assert np.abs(embed(small, crops) - embed(plain, crops)).max() < 1e-6


def test_int8_calculates_in_integers_behind_the_first_convolution(tiny_bundle: Path, crops: Crops) -> None:
    tiny = onnx.load(str(tiny_bundle / "embedder.onnx"))
    quantised = to_int8(tiny, crops)
    kinds = [node.op_type for node in quantised.graph.node]
    assert kinds.count("QuantizeLinear") >= 2
    first, second = (node for node in quantised.graph.node if node.op_type == "Conv")
    makers = {output: node.op_type for node in quantised.graph.node for output in node.output}
    assert makers.get(first.input[1]) != "DequantizeLinear"
    assert makers[second.input[1]] == "DequantizeLinear"
    cosines = np.sum(embed(quantised, crops) * embed(tiny, crops), axis=1)
    assert 0.99 < cosines.min() < 0.999999


def test_a_smaller_form_is_offered_and_says_what_it_is(int8_weights: Made, bundle: Bundle) -> None:
    out, card, report = int8_weights
    assert open_bundle(out).card == card
    assert (card.name, card.contract.precision) == ("open-small", "int8-weights")
    assert card.embedding_contract != bundle.card.embedding_contract
    assert card.contract.quantised is not None
    assert card.calibration is None
    assert bundle.card.calibration is not None
    assert card.contract.model_copy(update={"precision": "float32", "quantised": None}) == bundle.card.contract
    assert card.embedder.size == (out / "embedder.onnx").stat().st_size < 0.35 * bundle.card.embedder.size
    assert report.size == pytest.approx(card.embedder.size / bundle.card.embedder.size, abs=1e-3)
    assert report.speedup > 0
    assert 0.999 <= card.parity.min_cosine < 0.99999
    assert report.refused == ()


def refused(bundle: Bundle, out: Path, options: QuantizeOptions) -> BundleError:
    with pytest.raises(BundleError) as caught:
        quantize(bundle.path, out, options)
    assert list(out.parent.iterdir()) == []
    return caught.value


def test_a_form_that_is_neither_faster_nor_smaller_is_not_offered(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SIZE", 0.2)
    monkeypatch.setattr(module, "MIN_SPEEDUP", 3.0)
    error = refused(bundle, tmp_path / "none", QuantizeOptions("float16"))
    assert "No bundle was made in float16: it is neither faster here (" in error.message
    assert "nor half the size (50 %)" in error.message
    assert error.details["size"] == pytest.approx(0.5, abs=0.01)
    assert error.details["parity"]["min_cosine"] > 0.9999


def test_a_form_that_is_not_close_enough_is_not_offered(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "to_float16", to_int8_weights)
    error = refused(bundle, tmp_path / "none", QuantizeOptions("float16"))
    assert "the cosine to the published embedder is 0.999" in error.message
    assert "the limit is 0.9999" in error.message


def test_what_cannot_be_quantised_is_refused(bundle: Bundle, int8_weights: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "photos").mkdir()
    for source, options, complaint in (
        (int8_weights[0], QuantizeOptions("float16"), "is int8-weights, and float16 is asked for"),
        (bundle.path, QuantizeOptions("float32"), "is float32, and float32 is asked for"),
        (bundle.path, QuantizeOptions("int8"), "int8 is calibrated on faces; give a folder"),
        (bundle.path, QuantizeOptions("int8", tmp_path / "photos"), "has 0 photos with a face among 0; 16 are needed"),
        (bundle.path, QuantizeOptions("float16", tmp_path / "photos"), "float16 needs no calibration"),
    ):
        with pytest.raises(InvalidRequest, match=complaint):
            quantize(source, out, options)
    assert not out.exists()
    with pytest.raises(InvalidRequest, match="exists already"):
        quantize(bundle.path, tmp_path, QuantizeOptions("float16"))


@pytest.fixture(scope="module")
def faces_folder(tmp_path_factory: pytest.TempPathFactory, crops: Crops) -> Path:
    """Twenty-four photos of one face each."""
    folder = tmp_path_factory.mktemp("faces")
    for index, crop in enumerate(crops):
        photo = ImageOps.expand(Image.fromarray(crop), 60, (128, 128, 128))
        for kind, view in enumerate((photo, ImageOps.mirror(photo), photo.resize((300, 300)), photo.rotate(8))):
            view.save(folder / f"{index}_{kind}.png")
    return folder


def test_the_command_prints_its_report_and_ends_with_4_where_nothing_is_offered(
    bundle: Bundle,
    tiny_bundle: Path,
    faces_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = tmp_path / "half"
    given = ["quantize", str(bundle.path), "--precision", "float16", "--out", str(small), "--json"]
    assert main(given) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["path"], found["card"]["contract"]["precision"]) == (str(small), "float16")
    assert found["report"]["size"] < 0.51

    tiny = ["quantize", str(tiny_bundle), "--precision", "int8", "--photos", str(faces_folder), "--json"]
    monkeypatch.setattr(module, "MAX_SIZE", 0.1)
    monkeypatch.setattr(module, "MIN_SPEEDUP", 5.0)
    assert main([*tiny, "--out", str(tmp_path / "tiny")]) == 4
    error = json.loads(capsys.readouterr().out)["error"]
    assert "No bundle was made in int8: it is neither faster here" in error["message"]
    assert error["details"]["calibration_crops"] >= 16
    assert not (tmp_path / "tiny").exists()


def test_lfw_is_compared_before_and_after(
    bundle: Bundle, lfw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.1)
    card, report = quantize(bundle.path, tmp_path / "half", QuantizeOptions("float16", lfw=Lfw(lfw, 20)))
    accuracy = card.parity.accuracy
    assert accuracy is not None
    assert (accuracy.dataset, accuracy.pairs) == ("lfw", 20)
    assert accuracy.before == accuracy.after > 0.9
    assert 0.9999 < accuracy.min_cosine < 1
    assert report.parity["accuracy"]["pairs"] == 20


def test_an_embedder_that_lost_its_accuracy_on_lfw_is_refused(
    bundle: Bundle, recognizer: Recognizer, lfw: Path
) -> None:
    def blind(crops: Crops) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The same for everybody, but for noise."""
        noise = np.random.default_rng(int(crops.sum())).normal(1, 0.3, (len(crops), 128))
        return (noise / np.linalg.norm(noise)).astype(np.float32), np.ones(len(crops), np.float32)

    template = bundle.card.contract.alignment.template
    worse = Recognizer(recognizer.detector, blind, template, 112)
    with pytest.raises(BundleError, match=r"the accuracy lost on LFW is 0\.\d+, the limit is 0\.002"):
        compare_accuracy(Lfw(lfw, 20), worse, recognizer.embedder, LIMITS["int8"])
    with pytest.raises(InvalidRequest, match="50 pairs cannot be taken from 6000 in 10 folds; give a multiple of 20"):
        compare_accuracy(Lfw(lfw, 50), worse, recognizer.embedder, LIMITS["int8"])
    with pytest.raises(InvalidRequest, match="cannot be read"):
        compare_accuracy(Lfw(lfw / "none"), worse, recognizer.embedder, LIMITS["int8"])


@pytest.fixture(scope="module")
def photo(astronaut: bytes) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(astronaut)).convert("RGB").save(out, "JPEG")
    return out.getvalue()


@pytest.fixture(scope="module")
def clients(engine: Engine, int8_weights: Made) -> Iterator[tuple[TestClient, TestClient]]:
    """The application around the float32 bundle, and around the one made of it."""
    other = Settings(bundle=str(int8_weights[0]), provider="cpu")
    with (
        TestClient(create_app(engine, Settings())) as first,
        TestClient(create_app(load_engine(other), other)) as second,
    ):
        for client in (first, second):
            while client.get("/v1/health/ready").status_code == 503:
                time.sleep(0.01)
        yield first, second


def embedding(client: TestClient, photo: bytes) -> tuple[list[float], str]:
    answer = client.post("/v1/embed", files={"image": ("photo.jpg", photo)}, data={"faces": "largest"})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body["faces"][0]["embedding"], body["embedding_contract"]


def test_embeddings_of_two_precisions_are_never_compared(clients: tuple[TestClient, TestClient], photo: bytes) -> None:
    (a, contract), (b, other) = (embedding(client, photo) for client in clients)
    assert contract != other
    # Near enough that only the contract tells them apart.
    assert float(np.dot(a, b)) > 0.999
    for client, own, foreign in ((clients[0], contract, other), (clients[1], other, contract)):
        body = {"a": a, "b": b, "threshold": 0.3}
        answer = client.post("/v1/compare", json=body | {"embedding_contract": foreign})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "model_mismatch")
        assert answer.json()["error"]["details"]["embedding_contract"] == own
        assert client.post("/v1/compare", json=body | {"embedding_contract": own}).status_code == 200


def test_an_fmr_is_refused_until_the_form_is_calibrated(clients: tuple[TestClient, TestClient], photo: bytes) -> None:
    files = dict.fromkeys(("image_a", "image_b"), ("photo.jpg", photo))
    fine, uncalibrated = (c.post("/v1/verify", files=files, data={"fmr": "1e-3", "faces": "largest"}) for c in clients)
    assert fine.status_code == 200, fine.text
    assert uncalibrated.status_code == 422
