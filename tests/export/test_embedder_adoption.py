"""A tiny embedder, adopted in every way, against the same network unadopted and run one crop at a time."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from export.embedder import PLAIN, adopt_embedder
from export.graph import load_network
from service.errors import BundleError
from service.runtime.card import Fusion, Preprocessing

Crops = NDArray[np.uint8]
BATCHES = (1, 2, 5, 17)


@pytest.fixture(scope="module")
def crops() -> Crops:
    """Noise at several contrasts, one crop black and one white."""
    rng = np.random.default_rng(7)
    contrast = rng.uniform(0.1, 1, (max(BATCHES), 1, 1, 1))
    found = (rng.integers(0, 256, (max(BATCHES), 112, 112, 3)) * contrast).astype(np.uint8)
    found[3], found[4] = 0, 255
    return found


def oracle(path: Path, crops: Crops, how: Preprocessing, fusion: Fusion) -> NDArray[np.float64]:
    """Fused features before the norm: the published network crop by crop, all else in numpy."""
    session = ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])

    def features(pixels: Crops) -> NDArray[np.float64]:
        ordered = pixels if how.channels == "RGB" else pixels[:, :, ::-1]
        planes = (ordered.astype(np.float64) - how.mean) / how.scale
        [found] = session.run(None, {"data": planes.transpose(2, 0, 1)[None].astype(np.float32)})
        return found[0].astype(np.float64)

    rows = []
    for crop in crops:
        plain, mirrored = features(crop), features(crop[:, ::-1])
        rows.append({"none": plain, "sum": plain + mirrored, "concat": np.concatenate([plain, mirrored])}[fusion])
    return np.stack(rows)


def adopted(path: Path, how: Preprocessing = PLAIN, fusion: Fusion = "none") -> ort.InferenceSession:
    model = adopt_embedder(load_network(path), how, fusion, {})
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def edited(path: Path, folder: Path, edit: Callable[[ModelProto], object]) -> Path:
    model = onnx.load(str(path))
    edit(model)
    onnx.save(model, folder / "edited.onnx")
    return folder / "edited.onnx"


@pytest.mark.parametrize("fusion", ["none", "sum", "concat"])
@pytest.mark.parametrize("channels", ["RGB", "BGR"])
@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (127.5, 128.0), (0.0, 255.0), (103.25, 1.0)])
def test_every_adoption_equals_the_network_it_was_made_from(
    tiny_embedder: Path, crops: Crops, fusion: Fusion, channels: str, mean: float, scale: float
) -> None:
    how = Preprocessing(channels=channels, mean=mean, scale=scale)
    expected = oracle(tiny_embedder, crops, how, fusion)
    length = np.linalg.norm(expected, axis=1)
    session = adopted(tiny_embedder, how, fusion)
    for n in BATCHES:
        embedding, norm = session.run(["embedding", "feature_norm"], {"crops": crops[:n]})
        assert (embedding.dtype, norm.dtype) == (np.float32, np.float32)
        assert embedding.shape == expected[:n].shape
        assert norm.shape == (n,)
        assert np.abs(embedding - expected[:n] / length[:n, None]).max() < 1e-5
        assert np.abs(np.linalg.norm(embedding.astype(np.float64), axis=1) - 1).max() < 1e-6
        assert np.abs(norm / length[:n] - 1).max() < 1e-5


def test_the_ways_of_adoption_are_told_apart_by_these_crops(tiny_embedder: Path, crops: Crops) -> None:
    # Were the features nearly the same mirrored, or in another channel order, the test above could not fail.
    def unit(how: Preprocessing, crops: Crops, fusion: Fusion = "none") -> NDArray[np.float64]:
        found = oracle(tiny_embedder, crops, how, fusion)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    some = crops[5:8]
    plain = unit(PLAIN, some)
    others = [
        unit(PLAIN, some[:, :, ::-1]),
        unit(PLAIN, some[:, ::-1]),
        unit(PLAIN, some, "sum"),
        unit(Preprocessing(channels="BGR", mean=0, scale=1), some),
        unit(Preprocessing(channels="RGB", mean=1, scale=1), some),
    ]
    for other in others:
        assert np.abs(other - plain).max(axis=1).min() > 1e-4


def test_the_adopted_network_takes_uint8_crops_and_nothing_else(tiny_embedder: Path, crops: Crops) -> None:
    session = adopted(tiny_embedder, fusion="sum")
    [only] = session.get_inputs()
    assert (only.name, only.type, only.shape) == ("crops", "tensor(uint8)", ["n", 112, 112, 3])
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("embedding", ["n", 16]), ("feature_norm", ["n"])]
    with pytest.raises(Exception, match=r"Unexpected input data type.*expected: \(tensor\(uint8\)\)"):
        session.run(None, {"crops": crops[:1].astype(np.float32)})
    with pytest.raises(Exception, match="Got invalid dimensions for input: crops"):
        session.run(None, {"crops": crops[:1, :96]})


@pytest.mark.parametrize("fusion", ["none", "sum", "concat"])
def test_a_zero_feature_gives_a_zero_embedding_and_disturbs_no_other(
    tiny_embedder: Path, tmp_path: Path, crops: Crops, fusion: Fusion
) -> None:
    def without_biases(model: ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name.endswith(".bias"):
                tensor.CopyFrom(numpy_helper.from_array(np.zeros(tuple(tensor.dims), np.float32), tensor.name))

    path = edited(tiny_embedder, tmp_path, without_biases)
    batch = crops[2:6]  # the second is black, so nothing but zeros passes through it
    embedding, norm = adopted(path, fusion=fusion).run(["embedding", "feature_norm"], {"crops": batch})
    assert norm[1] == 0
    assert not embedding[1].any()
    expected = oracle(path, batch, PLAIN, fusion)[[0, 2, 3]]
    assert np.abs(embedding[[0, 2, 3]] - expected / np.linalg.norm(expected, axis=1, keepdims=True)).max() < 1e-5


def second_input(model: ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 16]))
    model.graph.node[-1].output[0] = "unmasked"
    model.graph.node.append(helper.make_node("Mul", ["unmasked", "mask"], ["fc1"]))


def second_output(model: ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("e", TensorProto.FLOAT, [1, 32]))


def image_of(*shape: int | str) -> Callable[[ModelProto], None]:
    def edit(model: ModelProto) -> None:
        model.graph.input[0].CopyFrom(helper.make_tensor_value_info("data", TensorProto.FLOAT, shape))

    return edit


def features_of(*shape: int | str) -> Callable[[ModelProto], None]:
    def edit(model: ModelProto) -> None:
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info("fc1", TensorProto.FLOAT, shape))

    return edit


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (second_input, "one image input and one output, this graph has 2 and 1"),
        (second_output, "one image input and one output, this graph has 1 and 2"),
        (image_of(1, 3, 160, 160), r"takes \[n, 3, 112, 112\], this graph takes \[1, 3, 160, 160\]"),
        (image_of(1, 3, 112, 96), r"this graph takes \[1, 3, 112, 96\]"),
        (image_of(1, 1, 112, 112), r"this graph takes \[1, 1, 112, 112\]"),
        (image_of(1, 112, 112, 3), r"this graph takes \[1, 112, 112, 3\]"),
        (image_of(1, 3, "h", "w"), r"this graph takes \[1, 3, 0, 0\]"),
        (features_of(1, "d"), "The embedding dimension of output 'fc1' is not known: 0"),
        (features_of(1, 1), "The embedding dimension of output 'fc1' is not known: 1"),
        (features_of(), "The embedding dimension of output 'fc1' is not known"),
    ],
)
def test_what_is_no_embedder_of_112_pixels_is_refused(
    tiny_embedder: Path, tmp_path: Path, edit: Callable[[ModelProto], object], complaint: str
) -> None:
    path = edited(tiny_embedder, tmp_path, edit)
    with pytest.raises(BundleError, match=complaint):
        adopt_embedder(load_network(path), PLAIN, "none", {})


@pytest.mark.parametrize("name", ["embedding", "crops", "planes", "fused"])
def test_a_network_that_uses_one_of_our_names_is_refused(tiny_embedder: Path, tmp_path: Path, name: str) -> None:
    def rename(model: ModelProto) -> None:
        if name == "embedding":
            model.graph.output[0].name = model.graph.node[-1].output[0] = name
        else:
            model.graph.node[0].output[0] = model.graph.node[1].input[0] = name

    path = edited(tiny_embedder, tmp_path, rename)
    how = Preprocessing(channels="RGB", mean=127.5, scale=128.0)
    with pytest.raises(BundleError, match="The rewritten graph is not valid ONNX"):
        adopt_embedder(load_network(path), how, "sum", {})
