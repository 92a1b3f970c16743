"""The rewrites one by one, on small graphs that ONNX Runtime runs."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from export import graph as g
from service.errors import BundleError

FLOAT, UINT8 = TensorProto.FLOAT, TensorProto.UINT8
Arrays = dict[str, NDArray[np.generic]]


def network(
    nodes: Sequence[NodeProto],
    image: tuple[int, list[int | str]],
    output: list[int | str],
    weights: Arrays | None = None,
    domain: str = "",
    opset: int = 11,
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", *image)],
        [helper.make_tensor_value_info("y", FLOAT, output)],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, opset)], ir_version=6)


def matmul(opset: int = 11) -> ModelProto:
    weight = np.arange(16, dtype=np.float32).reshape(4, 4)
    return network([helper.make_node("MatMul", ["x", "w"], ["y"])], (FLOAT, [4, 4]), [4, 4], {"w": weight}, opset=opset)


def run(model: ModelProto, x: NDArray[np.generic]) -> NDArray[np.float32]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x})[0]


def test_images_become_planes_with_their_values_unchanged() -> None:
    model = network(g.images_to_planes("x", "y"), (UINT8, ["n", "h", "w", 3]), ["n", 3, "h", "w"])
    g.finish(model, {})
    images = np.random.default_rng(4).integers(0, 256, (3, 5, 7, 3), np.uint8)
    images[0, 0, :2, 0] = [0, 255]
    planes = run(model, images)
    assert planes.dtype == np.float32
    assert np.array_equal(planes, images.transpose(0, 3, 1, 2))


def test_replacing_inputs_and_outputs_takes_the_weights_out_of_the_inputs() -> None:
    model = matmul()
    model.graph.input.append(helper.make_tensor_value_info("w", FLOAT, [4, 4]))
    model.graph.value_info.append(helper.make_tensor_value_info("stale", FLOAT, [1, 4]))
    new_input = helper.make_tensor_value_info("x", FLOAT, ["n", 4])
    new_output = helper.make_tensor_value_info("y", FLOAT, ["n", 4])
    g.replace_io(model.graph, [new_input], [new_output])
    assert list(model.graph.input) == [new_input]
    assert list(model.graph.output) == [new_output]
    assert len(model.graph.value_info) == 0
    assert [tensor.name for tensor in model.graph.initializer] == ["w"]
    g.finish(model, {})
    x = np.ones((7, 4), np.float32)
    assert np.array_equal(run(model, x), x @ g.weights(model.graph)["w"])


def test_setting_a_weight_twice_replaces_it() -> None:
    graph = matmul().graph
    assert g.set_weight(graph, "w", np.zeros((4, 4), np.float32)) == "w"
    g.set_weight(graph, "new", np.array([1, 2], np.int64)[::-1])
    assert [tensor.name for tensor in graph.initializer] == ["w", "new"]
    assert not g.weights(graph)["w"].any()
    assert g.weights(graph)["new"].tolist() == [2, 1]


def test_finishing_stamps_only_what_it_is_given() -> None:
    model = matmul()
    helper.set_model_props(model, {"author": "someone"})
    g.finish(model, {"likeness.fusion": "sum"})
    assert {entry.key: entry.value for entry in model.metadata_props} == {"likeness.fusion": "sum"}
    assert model.ir_version >= 8


def test_finishing_refuses_a_graph_whose_shapes_contradict_each_other() -> None:
    model = matmul()
    g.replace_io(model.graph, model.graph.input[:], [helper.make_tensor_value_info("y", FLOAT, [4, 5])])
    with pytest.raises(BundleError, match="The rewritten graph is not valid ONNX"):
        g.finish(model, {})


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", bytes(range(256)) * 40], ids=["empty", "html", "bytes"])
def test_what_is_no_network_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.onnx"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"odd\.onnx is not a valid ONNX file"):
        g.load_network(path)


def test_a_network_cut_off_in_the_middle_is_refused(tmp_path: Path, published: tuple[Path, Path]) -> None:
    path = tmp_path / "half.onnx"
    content = published[0].read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(BundleError, match=r"half\.onnx is not a valid ONNX file"):
        g.load_network(path)


@pytest.mark.parametrize("stands_in", ["its folder", "another folder"])
def test_weights_outside_the_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stands_in: str) -> None:
    onnx.save_model(
        matmul(), tmp_path / "apart.onnx", save_as_external_data=True, location="apart.bin", size_threshold=0
    )
    assert (tmp_path / "apart.bin").stat().st_size == 64
    monkeypatch.chdir(tmp_path if stands_in == "its folder" else os.sep)
    with pytest.raises(BundleError, match=r"apart\.onnx keeps weights outside the file"):
        g.load_network(tmp_path / "apart.onnx")


def outside() -> TensorProto:
    """16 numbers that are said to lie in a file above the folder."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": "../../../etc/passwd", "offset": "0", "length": "64"}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def in_a_constant(model: ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Constant", [], ["hidden"], value=outside()))


def in_a_subgraph(model: ModelProto) -> None:
    output = helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 4])
    branch = helper.make_graph([], "branch", [], [output], [outside()])
    branch.node.append(helper.make_node("Identity", ["w"], ["v"]))
    model.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=branch, else_branch=branch))


def among_sparse_weights(model: ModelProto) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(outside())


@pytest.mark.parametrize("hide", [in_a_constant, in_a_subgraph, among_sparse_weights])
def test_weights_outside_the_file_are_found_wherever_they_are_hidden(
    tmp_path: Path, hide: Callable[[ModelProto], None]
) -> None:
    model = matmul()
    hide(model)
    (tmp_path / "sly.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match=r"sly\.onnx keeps weights outside the file"):
        g.load_network(tmp_path / "sly.onnx")


@pytest.mark.parametrize("opset", [7, 10])
def test_an_opset_older_than_11_is_converted(tmp_path: Path, opset: int) -> None:
    old = matmul(opset)
    onnx.save(old, tmp_path / "old.onnx")
    new = g.load_network(tmp_path / "old.onnx")
    assert g.opset(new) == 11
    x = np.random.default_rng(opset).normal(size=(4, 4)).astype(np.float32)
    assert np.array_equal(run(new, x), run(old, x))


def test_an_old_operator_that_has_no_successor_is_named(tmp_path: Path) -> None:
    norm = helper.make_node("BatchNormalization", ["x", "a", "a", "a", "a"], ["y"], spatial=0)
    model = network([norm], (FLOAT, [1, 4, 1, 1]), [1, 4, 1, 1], {"a": np.ones(4, np.float32)}, opset=7)
    onnx.save(model, tmp_path / "old.onnx")
    with pytest.raises(
        BundleError, match=r"old\.onnx is opset 7; at least 11 is needed, and it cannot be converted: .*spatial"
    ):
        g.load_network(tmp_path / "old.onnx")


def test_opset_11_is_accepted(tmp_path: Path) -> None:
    onnx.save(matmul(11), tmp_path / "young.onnx")
    assert g.load_network(tmp_path / "young.onnx").graph.name == "small"


def test_a_network_without_any_standard_operator_is_refused(tmp_path: Path) -> None:
    scaler = helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[0.0], scale=[1.0])
    onnx.save(network([scaler], (FLOAT, [1, 4]), [1, 4], domain="ai.onnx.ml", opset=3), tmp_path / "ml.onnx")
    with pytest.raises(BundleError, match=r"ml\.onnx"):
        g.load_network(tmp_path / "ml.onnx")


def test_what_only_reshapes_constants_is_carried_out() -> None:
    slope = np.array([0.5, -1.0, 2.0], np.float32)
    nodes = [
        helper.make_node("Unsqueeze", ["slope"], ["column"], axes=[1, 2]),
        helper.make_node("PRelu", ["x", "column"], ["a"]),
        helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(np.array([1, 12], np.int64))),
        helper.make_node("Reshape", ["a", "shape"], ["y"]),
    ]
    model = network(nodes, (FLOAT, [1, 3, 2, 2]), [1, 12], {"slope": slope})
    x = np.random.default_rng(3).normal(size=(1, 3, 2, 2)).astype(np.float32)
    before = run(model, x)
    assert g.fold_constants(model) == 2
    assert [node.op_type for node in model.graph.node] == ["PRelu", "Reshape"]
    assert sorted(t.name for t in model.graph.initializer) == ["column", "shape"]
    assert np.array_equal(run(model, x), before)


def test_an_unread_dropout_is_an_identity_and_one_whose_mask_is_read_is_not() -> None:
    def dropped(outputs: list[str]) -> ModelProto:
        nodes = [helper.make_node("Dropout", ["x"], outputs), helper.make_node("Abs", ["a"], ["y"])]
        return network(nodes, (FLOAT, [2]), [2])

    single, masked = dropped(["a"]), dropped(["a", "mask"])
    g.drop_identities(single.graph)
    g.drop_identities(masked.graph)
    assert [node.op_type for node in single.graph.node] == ["Abs"]
    assert [node.op_type for node in masked.graph.node] == ["Dropout", "Abs"]
