"""SCRFD adopted, against ``insightface``'s own ``SCRFD`` class on the published file, anchor for anchor.

The published weights are not free for commercial use, so the rewriting is tested on small networks of the same
forms with random weights; ``test_scrfd_published`` has the real ones.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from insightface.model_zoo.scrfd import SCRFD
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from export.graph import load_network
from export.scrfd import adopt_scrfd
from service.errors import BundleError

Pixels = NDArray[np.uint8]
Found = list[NDArray[np.float32]]

HEADS = {"score": 1, "bbox": 4, "kps": 10}
SIZES = [(32, 32), (64, 32), (96, 416), (256, 256), (320, 480)]  # height, width


Form = Literal["batch axis kept", "batch flattened", "pyramid"]


def small_scrfd(form: Form) -> ModelProto:
    """Three strides, two anchors a cell, random weights.

    Args:
        form: whether the heads keep a batch axis of 1, or flatten the batch together with the cells and the outputs
            have numbers for names, as in InsightFace's packs. ``pyramid`` is the latter with what SCRFD-2.5G and -10G
            have besides: pooling in the backbone, maps enlarged by sizes that are computed from other maps, heads
            that all strides share, a factor for each stride, outputs declared for 640×640.
    """
    rng = np.random.default_rng(11)
    weights: dict[str, TensorProto] = {}
    nodes: list[NodeProto] = []
    outputs: dict[str, list[str]] = {kind: [] for kind in HEADS}
    flat, pyramid = form != "batch axis kept", form == "pyramid"

    def weight(value: NDArray[Any], name: str = "") -> str:
        name = name or f"w{len(weights)}"
        weights.setdefault(name, numpy_helper.from_array(value, name))
        return name

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def conv(x: str, y: str, shape: tuple[int, int, int], spread: float, stride: int, shared: str = "") -> None:
        out, into, side = shape
        kernel = weight(rng.normal(0, spread, (out, into, side, side)).astype(np.float32), shared)
        bias = weight(rng.normal(0, 0.5, out).astype(np.float32), shared and f"{shared}/bias")
        node("Conv", [x, kernel, bias], y, kernel_shape=[side, side], strides=[stride] * 2)

    def pooled(x: str, level: int) -> str:
        """One half of the size: the maximum first, the mean after that."""
        return node("AveragePool" if level else "MaxPool", [x], f"{x}/pooled", kernel_shape=[2, 2], strides=[2, 2])

    def enlarged(x: str, like: str) -> str:
        """``x`` with the rows and columns of ``like``, as PyTorch's ``interpolate`` is exported."""
        first, second, end = (weight(np.array([i], np.int64), f"int{i}") for i in (0, 2, 4))
        planes = node("Slice", [node("Shape", [x], f"{x}/shape"), first, second], f"{x}/planes")
        size = node("Slice", [node("Shape", [like], f"{like}/shape"), second, end], f"{like}/size")
        sizes = node("Concat", [planes, size], f"{x}/sizes", axis=0)
        none = weight(np.zeros(0, np.float32), "none")
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return node("Resize", [x, none, none, sizes], f"{x}/enlarged", **how)

    below, depth, step = "input.1", 3, 4 if pyramid else 8
    for level, stride in enumerate((8, 16, 32)):
        conv(below, f"c{stride}", (6, depth, step), 0.3 / level if level else 0.1, step)
        node("Relu", [f"c{stride}"], f"f{stride}")
        below, depth, step = pooled(f"f{stride}", level) if pyramid else f"f{stride}", 6, 1 if pyramid else 2
    heads = {stride: f"f{stride}" for stride in (8, 16, 32)}
    if pyramid:
        heads = {stride: f"f{stride}/pooled" for stride in heads}
        for fine, coarse in ((16, 32), (8, 16)):
            heads[fine] = node("Add", [heads[fine], enlarged(heads[coarse], heads[fine])], f"p{fine}")
    for stride, features in heads.items():
        for kind, width in HEADS.items():
            name = f"{kind}_{stride}" if not flat else str(400 + 10 * len(nodes))
            conv(features, f"{name}/map", (2 * width, 6, 1), 0.4, 1, f"head/{kind}" if pyramid else "")
            values = f"{name}/map"
            if pyramid and kind == "bbox":
                factor = weight(np.array(1 + stride / 40, np.float32), f"scale{stride}")
                values = node("Mul", [values, factor], f"{name}/scaled")
            turned, shape = ([2, 3, 0, 1], [-1, width]) if flat else ([0, 2, 3, 1], [1, -1, width])
            node("Transpose", [values], f"{name}/turned", perm=turned)
            reshaped = f"{name}/logit" if kind == "score" else name
            node("Reshape", [f"{name}/turned", weight(np.array(shape, np.int64))], reshaped)
            if kind == "score":
                node("Sigmoid", [reshaped], name)
            outputs[kind].append(name)
    anchors = [2 * (640 // stride) ** 2 if pyramid else "a" for stride in heads]
    listed = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [a, HEADS[kind]] if flat else [1, a, HEADS[kind]])
        for kind, names in outputs.items()
        for name, a in zip(names, anchors, strict=True)
    ]
    image = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, "h", "w"])
    graph = helper.make_graph(nodes, "small_scrfd", [image], listed, list(weights.values()))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)


@pytest.fixture(scope="module", params=get_args(Form))
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scrfd") / "small.onnx"
    onnx.save(small_scrfd(request.param), path)
    return path


@pytest.fixture(scope="module")
def session(file: Path, session_of: Callable[[bytes], ort.InferenceSession]) -> ort.InferenceSession:
    return session_of(adopt_scrfd(load_network(file), {}).SerializeToString())


@pytest.fixture(scope="module")
def peer(file: Path, session_of: Callable[[bytes], ort.InferenceSession]) -> SCRFD:
    return SCRFD(str(file), session_of(file.read_bytes()), static_shape_sessions=False)


@pytest.fixture(scope="module")
def group(group_photo: bytes) -> Pixels:
    return np.ascontiguousarray(cv2.imdecode(np.frombuffer(group_photo, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1])


def detect(session: ort.InferenceSession, images: Pixels) -> Found:
    return session.run(["boxes", "scores", "landmarks"], {"images": images})


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_every_anchor_is_that_of_insightface(
    session: ort.InferenceSession, peer: SCRFD, group: Pixels, size: tuple[int, int]
) -> None:
    height, width = size
    part = cv2.resize(group[100:500, 300:800], (width, height), interpolation=cv2.INTER_AREA)
    scores, boxes, landmarks = (np.concatenate(p) for p in peer.forward(np.ascontiguousarray(part[:, :, ::-1]), 0.0))
    assert len(scores) == sum(2 * height * width // stride**2 for stride in (8, 16, 32))
    assert np.ptp(scores) > 0.1, "scores that are all alike would show nothing"
    found = detect(session, part[None])
    for name, ours, expected in zip(
        ("boxes", "scores", "landmarks"), found, (boxes, scores[:, 0], landmarks), strict=True
    ):
        assert ours[0].shape == expected.shape, name
        assert np.abs(ours[0] - expected).max() < 1e-3, name
        assert ours.dtype == np.float32


def test_a_batch_of_different_photos_equals_each_alone(session: ort.InferenceSession, group: Pixels) -> None:
    batch = np.stack([group[100:420, 200:648], group[300:620, 600:1048], group[200:520, 400:848]])
    together = detect(session, batch)
    for i, image in enumerate(batch):
        for of_batch, of_one in zip(together, detect(session, image[None]), strict=True):
            assert np.abs(of_batch[i] - of_one[0]).max() < 1e-3
    assert np.abs(together[1][0] - together[1][1]).max() > 0.01


def test_it_takes_uint8_images_of_any_size(session: ort.InferenceSession) -> None:
    [only] = session.get_inputs()
    assert (only.name, only.type, only.shape) == ("images", "tensor(uint8)", ["n", "h", "w", 3])


def test_an_embedder_is_not_taken_for_scrfd(tiny_embedder: Path) -> None:
    with pytest.raises(
        BundleError, match=r"This is not SCRFD with five landmarks: 1 inputs and outputs of widths \[16\]"
    ):
        adopt_scrfd(load_network(tiny_embedder), {})


def test_a_yunet_is_not_taken_for_scrfd(published: tuple[Path, Path]) -> None:
    with pytest.raises(BundleError, match="This is not SCRFD with five landmarks: 1 inputs and outputs of widths"):
        adopt_scrfd(load_network(published[0]), {})


def test_an_scrfd_without_landmarks_is_refused() -> None:
    model = small_scrfd("batch flattened")
    del model.graph.output[6:]
    with pytest.raises(
        BundleError, match=r"widths \[1, 1, 1, 4, 4, 4\], expected 1 and \[1, 1, 1, 4, 4, 4, 10, 10, 10\]"
    ):
        adopt_scrfd(model, {})


def test_a_head_of_another_form_is_named() -> None:
    model = small_scrfd("batch axis kept")
    [last] = [node for node in model.graph.node if node.output[0] == "kps_32"]
    last.CopyFrom(helper.make_node("Flatten", [last.input[0]], ["kps_32"]))
    with pytest.raises(BundleError, match="output 'kps_32' does not come from a transposed and reshaped map"):
        adopt_scrfd(model, {})
