"""The published files, and a tiny embedder that goes through the whole adoption in a moment."""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from export.adopt import adopt
from export.catalog import BundleRecipe, CatalogFile, load_catalog
from export.fetch import cached_path
from export.pull import Pulled, pull

TINY_DIMENSION = 16


@pytest.fixture(scope="session")
def recipe() -> BundleRecipe:
    """The default bundle, as it is catalogued."""
    return load_catalog().bundle("open")


@pytest.fixture(scope="session")
def published(data_dir: Path, recipe: BundleRecipe) -> tuple[Path, Path]:
    """YuNet and SFace as they were published."""
    detector, embedder = (cached_path(file, data_dir / "downloads") for file in recipe.files)
    for path in (detector, embedder):
        if not path.is_file():
            pytest.fail(f"{path} is not there; `likeness pull open --force --data-dir {data_dir}` obtains it")
    return detector, embedder


@pytest.fixture(scope="session")
def buffalo_s_files(data_dir: Path) -> tuple[Path, Path]:
    """SCRFD-500M and w600k_mbf as they were published; nobody's acceptance of their licence is taken for granted."""
    recipe = load_catalog().bundle("buffalo_s")
    detector, embedder = (cached_path(file, data_dir / "downloads") for file in recipe.files)
    if not (detector.is_file() and embedder.is_file()):
        spdx = recipe.embedder.licence.spdx
        pytest.skip(f"not there: `likeness pull buffalo_s --accept-license {spdx} --data-dir {data_dir}` obtains it")
    return detector, embedder


@pytest.fixture(scope="session")
def session_of() -> Callable[[bytes], ort.InferenceSession]:
    """Opens a network on one thread: a second one spins, which is slow where tests run side by side."""

    def open_session(model: bytes) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    return open_session


@pytest.fixture(scope="session")
def tiny_embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedder as they are published: one crop at a time, and its weights listed among its inputs."""
    path = tmp_path_factory.mktemp("published") / "tiny.onnx"
    onnx.save(tiny_network(), path)
    return path


@pytest.fixture(scope="session")
def tiny_recipe(recipe: BundleRecipe, tiny_embedder: Path) -> BundleRecipe:
    """A bundle of the real detector and the tiny embedder."""
    content = tiny_embedder.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    embedder = replace(recipe.embedder, name=tiny_embedder.name, size=len(content), sha256=digest)
    return replace(recipe, name="tiny", embedder=embedder)


@pytest.fixture(scope="session")
def tiny_bundle(
    tmp_path_factory: pytest.TempPathFactory,
    published: tuple[Path, Path],
    tiny_recipe: BundleRecipe,
    tiny_embedder: Path,
) -> Path:
    """The folder of that bundle; tests change only copies of it."""
    return adopt(tiny_recipe, published[0], tiny_embedder, tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def data(tmp_path: Path, published: tuple[Path, Path], tiny_recipe: BundleRecipe, tiny_embedder: Path) -> Path:
    """A data folder with the published files in its cache, and no bundle yet."""
    return with_downloads(tmp_path / "data", {tiny_recipe.detector: published[0], tiny_recipe.embedder: tiny_embedder})


@pytest.fixture
def tiny_in_use(data: Path, tiny_bundle: Path) -> Path:
    """The folder of the tiny bundle in that data folder, put to use there."""
    shutil.copytree(tiny_bundle.parent, data / "bundles", symlinks=True)
    return data / "bundles" / tiny_bundle.name


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks the network, here or in a child process, is refused at once."""
    refuse_network(monkeypatch)


@pytest.fixture(scope="session")
def pulled(tmp_path_factory: pytest.TempPathFactory, recipe: BundleRecipe, published: tuple[Path, Path]) -> Pulled:
    """The default bundle, made here and now from the published files, without any network."""
    data = with_downloads(tmp_path_factory.mktemp("open"), dict(zip(recipe.files, published, strict=True)))
    with pytest.MonkeyPatch.context() as monkeypatch:
        refuse_network(monkeypatch)
        return pull("open", data)


def with_downloads(data: Path, files: Mapping[CatalogFile, Path]) -> Path:
    """Links, so that what deletes a file here deletes only a link."""
    for file, path in files.items():
        link = cached_path(file, data / "downloads")
        link.parent.mkdir(parents=True)
        link.symlink_to(path.resolve())
    return data


def refuse_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY", "PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)


def tiny_network() -> ModelProto:
    """Conv, PRelu, Conv, PRelu, Flatten, Gemm with random weights."""
    rng = np.random.default_rng(5)
    values = {
        "conv1.weight": rng.normal(0, 0.1, (6, 3, 8, 8)),
        "conv1.bias": rng.normal(0, 3, 6),
        "prelu1.slope": np.array([-0.4, 0.0, 0.25, 1.0, 1.7, 0.6]).reshape(6, 1, 1),
        "conv2.weight": rng.normal(0, 0.1, (8, 6, 7, 7)),
        "conv2.bias": rng.normal(0, 3, 8),
        "prelu2.slope": rng.normal(0, 0.5, (8, 1, 1)),
        "gemm.weight": rng.normal(0, 0.2, (TINY_DIMENSION, 32)),
        "gemm.bias": rng.normal(0, 3, TINY_DIMENSION),
    }
    weights = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()]
    nodes = [
        helper.make_node("Conv", ["data", "conv1.weight", "conv1.bias"], ["a"], strides=[8, 8], kernel_shape=[8, 8]),
        helper.make_node("PRelu", ["a", "prelu1.slope"], ["b"]),
        helper.make_node("Conv", ["b", "conv2.weight", "conv2.bias"], ["c"], strides=[7, 7], kernel_shape=[7, 7]),
        helper.make_node("PRelu", ["c", "prelu2.slope"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "gemm.weight", "gemm.bias"], ["fc1"], transB=1),
    ]
    image = helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, 3, 112, 112])
    listed = [helper.make_tensor_value_info(w.name, TensorProto.FLOAT, w.dims) for w in weights]
    features = helper.make_tensor_value_info("fc1", TensorProto.FLOAT, [1, TINY_DIMENSION])
    graph = helper.make_graph(nodes, "tiny", [image, *listed], [features], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
