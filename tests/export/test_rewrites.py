"""The exact rewrites: each is the function it replaces, against float64 and against ONNX Runtime on what was there."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from export import graph as g
from export.embedder import PLAIN, adopt_embedder
from export.machine import STEPS, rewritten
from export.rewrites import Rewrite, expand_prelu, fold_batch_norms, prelu_by_depthwise, widen_groups

Arrays = dict[str, NDArray[np.generic]]


def network(nodes: Sequence[NodeProto], image: list[int], output: list[int], weights: Arrays) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)


def run(model: ModelProto, x: NDArray[np.generic]) -> NDArray[np.float32]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x})[0]


def kinds(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


SLOPES = {
    "negative, zero, one, large": [-0.7, 0.0, 1.0, 3.25],
    "usual": [0.1, 0.25, 1 / 3, 0.9],
    "nearly nothing": [-2.0, 1.0000001, 1e-6, -1e-6],
}


@pytest.mark.parametrize("slopes", SLOPES.values(), ids=SLOPES)
@pytest.mark.parametrize(
    ("rewrite", "shape"),
    [
        (expand_prelu, (4, 1, 1)),
        (expand_prelu, (1,)),
        (prelu_by_depthwise, (4, 1, 1)),
        (prelu_by_depthwise, (1, 4, 1, 1)),
    ],
)
def test_a_rewritten_prelu_is_the_formula(slopes: list[float], rewrite: Rewrite, shape: tuple[int, ...]) -> None:
    slope = np.array(slopes[: int(np.prod(shape))], np.float32).reshape(shape)
    model = network([helper.make_node("PRelu", ["x", "slope"], ["y"])], [2, 4, 5, 6], [2, 4, 5, 6], {"slope": slope})
    assert rewrite(model.graph) == 1
    assert "PRelu" not in kinds(model)
    assert "slope" not in g.weights(model.graph)
    g.finish(model, {})

    x = np.random.default_rng(1).normal(0, 40, (2, 4, 5, 6)).astype(np.float32)
    x[0, :, 0, :3] = [0.0, -1e-30, 1e30]
    exact = np.where(x >= 0, x, x.astype(np.float64) * slope.astype(np.float64))
    # Two products and one sum of float32: each rounds by at most half a unit of what it works on.
    largest = np.abs(x.astype(np.float64)) * np.maximum(np.abs(slope), np.abs(1.0 - slope)).clip(1)
    assert np.all(np.abs(run(model, x) - exact) <= 3 * np.finfo(np.float32).eps / 2 * largest + 1e-37)


@pytest.mark.parametrize("rewrite", [expand_prelu, prelu_by_depthwise])
def test_several_prelus_are_rewritten_and_other_nodes_stay_where_they_are(rewrite: Rewrite) -> None:
    weights = {
        "s1": np.full((3, 1, 1), 0.2, np.float32),
        "s2": np.array([-0.5, 1.5, 0.0], np.float32).reshape(3, 1, 1),
        "half": np.array(0.5, np.float32),
    }
    nodes = [
        helper.make_node("PRelu", ["x", "s1"], ["a"]),
        helper.make_node("Sub", ["a", "half"], ["b"]),
        helper.make_node("PRelu", ["b", "s2"], ["c"]),
        helper.make_node("PRelu", ["c", "s2"], ["y"]),  # one slope, two users
    ]
    model = network(nodes, [1, 3, 4, 4], [1, 3, 4, 4], weights)
    x = np.random.default_rng(3).normal(0, 2, (1, 3, 4, 4)).astype(np.float32)
    before = run(model, x)
    assert rewrite(model.graph) == 3
    assert kinds(model).count("Sub") == 1
    g.finish(model, {})
    assert np.allclose(run(model, x), before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rewrite", [expand_prelu, prelu_by_depthwise])
def test_a_prelu_whose_slope_is_computed_is_left_alone(rewrite: Rewrite) -> None:
    nodes = [
        helper.make_node("Abs", ["s"], ["slope"]),
        helper.make_node("PRelu", ["x", "slope"], ["y"]),
    ]
    model = network(nodes, [1, 1, 2, 2], [1, 1, 2, 2], {"s": np.full((1, 1, 1), -0.5, np.float32)})
    assert rewrite(model.graph) == 0
    assert kinds(model) == ["Abs", "PRelu"]


def test_a_slope_for_all_channels_is_not_taken_for_one_of_each() -> None:
    slope = np.array([0.25], np.float32)
    model = network([helper.make_node("PRelu", ["x", "slope"], ["y"])], [1, 3, 2, 2], [1, 3, 2, 2], {"slope": slope})
    assert prelu_by_depthwise(model.graph) == 0


def batch_norm(source: str, name: str, channels: int, rng: np.random.Generator) -> tuple[NodeProto, Arrays]:
    weights: Arrays = {
        f"{name}.gamma": rng.uniform(0.3, 2, channels).astype(np.float32),
        f"{name}.beta": rng.normal(0, 1, channels).astype(np.float32),
        f"{name}.mean": rng.normal(0, 1, channels).astype(np.float32),
        f"{name}.var": rng.uniform(0.1, 3, channels).astype(np.float32),
    }
    return helper.make_node("BatchNormalization", [source, *weights], [name], epsilon=2e-5), weights


def tail(trans_b: int, biased: bool) -> ModelProto:
    """Conv, batch norm, PRelu, batch norm, Flatten, Gemm, batch norm: how MobileFaceNets begin and end."""
    rng = np.random.default_rng(8)
    (first, w1), (second, w2) = batch_norm("a", "b", 4, rng), batch_norm("c", "d", 4, rng)
    third, w3 = batch_norm("f", "y", 5, rng)
    weights: Arrays = (
        {
            "conv": rng.normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32),
            "slope": rng.uniform(-0.5, 1.5, (4, 1, 1)).astype(np.float32),
            "gemm": rng.normal(0, 0.3, (5, 64) if trans_b else (64, 5)).astype(np.float32),
        }
        | w1
        | w2
        | w3
    )
    biases: Arrays = {"cb": rng.normal(0, 1, 4).astype(np.float32), "gb": rng.normal(0, 1, 5).astype(np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "conv", *(["cb"] if biased else [])], ["a"], kernel_shape=[3, 3]),
        first,
        helper.make_node("PRelu", ["b", "slope"], ["c"]),
        second,
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "gemm", *(["gb"] if biased else [])], ["f"], transB=trans_b),
        third,
    ]
    return network(nodes, [2, 3, 6, 6], [2, 5], weights | (biases if biased else {}))


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("biased", [False, True])
def test_batch_norms_fold_into_what_is_before_and_into_the_gemm_after_a_flatten(trans_b: int, biased: bool) -> None:
    model = tail(trans_b, biased)
    x = np.random.default_rng(9).normal(0, 1, (2, 3, 6, 6)).astype(np.float32)
    before = run(model, x)
    assert np.abs(before).max() > 1
    assert fold_batch_norms(model.graph) == 3
    assert kinds(model) == ["Conv", "PRelu", "Flatten", "Gemm"]
    assert len(model.graph.initializer) == 5
    g.finish(model, {})
    assert np.abs(run(model, x) - before).max() < 2e-5


def test_a_batch_norm_is_not_folded_into_what_others_read_too() -> None:
    rng = np.random.default_rng(4)
    norm, weights = batch_norm("a", "b", 3, rng)
    nodes = [
        helper.make_node("Conv", ["x", "conv"], ["a"], kernel_shape=[1, 1]),
        norm,
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    conv = rng.normal(0, 1, (3, 3, 1, 1)).astype(np.float32)
    model = network(nodes, [1, 3, 4, 4], [1, 3, 4, 4], {"conv": conv} | weights)
    assert fold_batch_norms(model.graph) == 0
    assert kinds(model) == ["Conv", "BatchNormalization", "Add"]


@pytest.mark.parametrize("outputs_of_a_group", [1, 2, 3])
@pytest.mark.parametrize("block", [8, 16])
def test_wider_groups_are_the_same_convolution(outputs_of_a_group: int, block: int) -> None:
    rng = np.random.default_rng(6)
    groups = 16
    weight = rng.normal(0, 0.3, (groups * outputs_of_a_group, 2, 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=groups, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    model = network([node], [2, 32, 5, 5], [2, len(weight), 5, 5], {"w": weight})
    x = rng.normal(0, 1, (2, 32, 5, 5)).astype(np.float32)
    before = run(model, x)
    assert widen_groups(block)(model.graph) == 1
    [wide] = g.weights(model.graph).values()
    assert wide.shape == (len(weight), block, 3, 3)
    g.finish(model, {})
    assert np.abs(run(model, x) - before).max() < 2e-6


@pytest.mark.parametrize(("channels", "groups"), [(32, 32), (32, 1), (32, 2), (24, 8), (6, 3)])
def test_groups_that_are_whole_or_do_not_fill_a_block_stay(channels: int, groups: int) -> None:
    weight = np.ones((channels, channels // groups, 1, 1), np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=groups, kernel_shape=[1, 1])
    model = network([node], [1, channels, 2, 2], [1, channels, 2, 2], {"w": weight})
    assert widen_groups(16)(model.graph) == 0


REWRITES = {f"{step} {name}": rewrite for step, all_of in STEPS.items() for name, rewrite in all_of.items()}


@pytest.mark.parametrize("name", REWRITES)
def test_a_rewritten_embedder_is_the_published_one(
    name: str,
    buffalo_s_files: tuple[Path, Path],
    published: tuple[Path, Path],
    session_of: Callable[[bytes], ort.InferenceSession],
) -> None:
    found = 0
    crops = np.random.default_rng(2).integers(0, 256, (2, 112, 112, 3), np.uint8)
    for file in (published[1], buffalo_s_files[1]):
        model = adopt_embedder(g.load_network(file), PLAIN, "sum", {"stamp": "stays"})
        form = rewritten(model, REWRITES[name])
        if form is None:
            continue
        found += 1
        assert {entry.key: entry.value for entry in form.metadata_props} == {"stamp": "stays"}
        expected, got = (
            session_of(m.SerializeToString()).run(["embedding"], {"crops": crops})[0] for m in (model, form)
        )
        assert np.abs(got - expected).max() < 2e-6
    assert found > 0
