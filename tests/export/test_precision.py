"""What becomes of a graph in another precision, and the gates that it passes before it is offered."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from export import quantize as module
from export.accuracy import Lfw, compare_accuracy
from export.parity import LIMITS, face_crops
from export.precision import to_float16, to_int8, to_int8_weights
from export.quantize import QuantizeOptions, quantize
from service.errors import BundleError, InvalidRequest
from service.recognition.recognizer import Recognizer
from service.runtime.bundle import Bundle
from service.runtime.networks import RuntimeOptions, open_embedder_session

Crops = NDArray[np.uint8]


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> ModelProto:
    return onnx.load_model_from_string(bundle.embedder)


@pytest.fixture(scope="module")
def crops(recognizer: Recognizer) -> Crops:
    """Six real faces."""
    return face_crops(recognizer)


def embed(model: ModelProto | bytes, crops: Crops) -> NDArray[np.float32]:
    content = model if isinstance(model, bytes) else model.SerializeToString()
    found: NDArray[np.float32] = open_embedder_session(content, 112, RuntimeOptions("cpu")).run(
        ["embedding"], {"crops": crops}
    )[0]
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
