"""``likeness adopt``: embedders of every form that they are published in, made into bundles and served."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from export.embedder_file import read_onnx_embedder
from export.foreign import AdoptOptions, adopt_file, preset
from export.projection import Pca
from service.engine import Engine, load_engine
from service.errors import BundleError, InvalidRequest
from service.recognition.recognizer import Recognizer
from service.runtime.card import Card, Fusion, Licence
from service.settings import Settings

Crops = NDArray[np.uint8]
Vectors = NDArray[np.floating[Any]]
LICENCE = Licence(spdx="CC0-1.0", url="https://licence.example", commercial_use=True)
DIMENSION = 12

pytestmark = pytest.mark.usefixtures("published")


def attention(layout: str = "nchw") -> ModelProto:
    """Attention over the channels of 49 places, as EdgeFace has it: every Reshape, one of them with -1, and an Expand
    name a batch of 1. The dimension of its output is not declared."""
    rng = np.random.default_rng(3)
    values: dict[str, NDArray[Any]] = {
        "conv": rng.normal(0, 0.05, (8, 3, 16, 16)).astype(np.float32),
        "linear": rng.normal(0, 0.5, (8, 24)).astype(np.float32),
        "last": rng.normal(0, 0.3, (392, DIMENSION)).astype(np.float32),
        "places": np.array([1, 8, 49], np.int64),
        "heads": np.array([1, 49, 3, 2, -1], np.int64),
        "whole": np.array([1, 2, 4, 49], np.int64),
        "joined": np.array([1, -1], np.int64),
        "tiny": np.array(1e-12, np.float32),
    }
    source = "image" if layout == "nchw" else "turned"
    turn = [helper.make_node("Transpose", ["image"], ["turned"], perm=[0, 3, 1, 2])] if layout == "nhwc" else []
    nodes = [
        *turn,
        helper.make_node("Conv", [source, "conv"], ["a"], strides=[16, 16]),
        helper.make_node("Reshape", ["a", "places"], ["b"]),
        helper.make_node("Transpose", ["b"], ["c"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["c", "linear"], ["d"]),
        helper.make_node("Reshape", ["d", "heads"], ["e"]),
        helper.make_node("Transpose", ["e"], ["f"], perm=[2, 0, 3, 4, 1]),
        helper.make_node("Split", ["f"], ["q5", "k5", "v5"], axis=0, split=[1, 1, 1]),
        *(helper.make_node("Squeeze", [f"{x}5"], [x], axes=[0]) for x in "qkv"),
        helper.make_node("ReduceL2", ["q"], ["l"], axes=[-1], keepdims=1),
        helper.make_node("Max", ["l", "tiny"], ["m"]),
        helper.make_node("Expand", ["m", "whole"], ["n"]),
        helper.make_node("Div", ["q", "n"], ["o"]),
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["o", "kt"], ["p"]),
        helper.make_node("Softmax", ["p"], ["r"], axis=3),
        helper.make_node("MatMul", ["r", "v"], ["s"]),
        helper.make_node("Reshape", ["s", "joined"], ["t"]),
        helper.make_node("MatMul", ["t", "last"], ["features"]),
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in values.items()]
    shape = [1, 3, 112, 112] if layout == "nchw" else [1, 112, 112, 3]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", "d"])
    graph = helper.make_graph(nodes, "attention", [image], [features], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    onnx.save(attention(), tmp_path / "attention.onnx")
    return tmp_path / "attention.onnx"


@pytest.fixture
def take(tmp_path: Path, data_dir: Path, file: Path) -> Callable[..., Card]:
    def run(out: str = "mine", path: Path = file, **wishes: Any) -> Card:
        options = AdoptOptions(preset("insightface"), LICENCE, **wishes)
        return adopt_file(path, tmp_path / out, out, data_dir / "downloads", options)

    return run


@pytest.fixture(scope="module")
def crops(recognizer: Recognizer, group_photo: bytes) -> Crops:
    image = recognizer.decode(group_photo)
    return np.stack([recognizer.crop(image, face) for face in recognizer.detect(image)])


def one_by_one(path: Path, crops: Crops, fusion: Fusion = "sum", planes_last: bool = False) -> Vectors:
    """Unit embeddings (n, d) by the file as it is."""
    session = ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])

    def features(view: NDArray[np.float64]) -> NDArray[np.float64]:
        given = view if planes_last else view.transpose(2, 0, 1)
        return session.run(None, {"image": np.ascontiguousarray(given[None], np.float32)})[0][0].astype(np.float64)

    rows = []
    for crop in (crops.astype(np.float64) - 127.5) / 127.5:
        both = [features(crop), features(crop[:, ::-1])]
        rows.append({"none": both[0], "sum": both[0] + both[1], "concat": np.concatenate(both)}[fusion])
    return np.stack(rows) / np.linalg.norm(rows, axis=1, keepdims=True)


def served(folder: Path) -> Engine:
    return load_engine(Settings(bundle=str(folder)))


def test_a_batch_that_reshapes_fix_at_one_comes_free(
    take: Callable[..., Card], tmp_path: Path, file: Path, crops: Crops
) -> None:
    card = take()
    assert (card.contract.dimension, card.parity.crops) == (DIMENSION, 6)
    embedder = served(tmp_path / "mine").recognizer.embedder
    expected = one_by_one(file, crops)
    assert np.abs(expected @ expected.T - np.eye(6)).max() > 0.01
    for n in (1, 2, 6):
        assert np.abs(embedder(crops[:n])[0] - expected[:n]).max() < 1e-5


def test_planes_may_come_last(take: Callable[..., Card], tmp_path: Path, crops: Crops) -> None:
    onnx.save(attention("nhwc"), tmp_path / "last.onnx")
    with pytest.raises(BundleError, match=r"of layout nchw: .*\[1, 112, 112, 3\].* Give --layout nhwc\."):
        take(path=tmp_path / "last.onnx")
    take(path=tmp_path / "last.onnx", layout="nhwc")
    expected = one_by_one(tmp_path / "last.onnx", crops, planes_last=True)
    assert np.abs(served(tmp_path / "mine").recognizer.embedder(crops)[0] - expected).max() < 1e-5


@pytest.mark.parametrize(("fusion", "kept"), [("none", 5), ("sum", None), ("concat", 9)])
def test_a_pca_is_inside_the_graph(
    take: Callable[..., Card], tmp_path: Path, file: Path, crops: Crops, fusion: Fusion, kept: int | None
) -> None:
    d = DIMENSION * (2 if fusion == "concat" else 1)
    spread = np.random.default_rng(11).normal(0.1, 1 / np.arange(1, d + 1), (4 * d, d))
    fitted_to = (spread / np.linalg.norm(spread, axis=1, keepdims=True)).astype(np.float32)
    np.save(tmp_path / "e.npy", fitted_to)
    card = take(fusion=fusion, pca=Pca(tmp_path / "e.npy", kept))
    mean = fitted_to.astype(np.float64).mean(axis=0)
    axes = np.linalg.svd(fitted_to - mean)[2][:kept]
    expected = (one_by_one(file, crops, fusion) - mean) @ axes.T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    embeddings = served(tmp_path / "mine").recognizer.embedder(crops)[0]
    assert embeddings.shape[1] == card.contract.dimension == (kept or d)
    # An axis has no sign, so the cosines are what must agree.
    assert np.abs(embeddings @ embeddings.T - expected @ expected.T).max() < 1e-4
    assert card.contract.projection is not None


def test_a_pca_of_other_embeddings_is_refused(take: Callable[..., Card], tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", np.eye(16))
    with pytest.raises(InvalidRequest, match="dimensions, the embedder with fusion sum gives 12"):
        take(pca=Pca(tmp_path / "e.npy"))
    with pytest.raises(InvalidRequest, match="A dimension of 4 needs a PCA"):
        take(pca=Pca(dimension=4))
    assert not (tmp_path / "mine").exists()


def test_the_command_makes_a_bundle_with_a_pca(tmp_path: Path, data_dir: Path, file: Path) -> None:
    vectors = np.random.default_rng(2).normal(size=(40, DIMENSION))
    np.save(tmp_path / "e.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    command = [sys.executable, "-m", "service.cli.main", "adopt", str(file), "--out", str(tmp_path / "mine"), "--json"]
    command += ["--preset", "insightface", "--pca", str(tmp_path / "e.npy"), "--pca-dimension", "7"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LIKENESS_")}
    done = subprocess.run(
        [*command, "--data-dir", str(data_dir)], capture_output=True, text=True, timeout=120, env=clean, check=False
    )
    assert done.returncode == 0, done.stderr
    card = json.loads(done.stdout)["card"]
    assert card["contract"]["dimension"] == 7
    assert card["contract"]["projection"]
    assert card["licence"]["commercial_use"] is False


def test_what_is_no_embedder_is_named(tmp_path: Path, published: tuple[Path, Path]) -> None:
    with pytest.raises(BundleError, match=r"This is not an embedder: it has the inputs \['input'\] and the outputs"):
        read_onnx_embedder(published[0])
    model = attention()
    del model.graph.node[-1:]
    model.graph.output[0].name = "s"
    onnx.save(model, tmp_path / "map.onnx")
    with pytest.raises(BundleError, match=r"for one crop it gives the shape \[1, 2, 4, 49\], expected \[1, d\]"):
        read_onnx_embedder(tmp_path / "map.onnx")
