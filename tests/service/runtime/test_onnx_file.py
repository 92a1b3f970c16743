"""Data outside the file, wherever in the file a tensor can be: refused by name, and never looked for."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from service.errors import BundleError
from service.runtime.bundle import Bundle
from service.runtime.networks import RuntimeOptions, open_networks
from service.runtime.onnx_file import keeps_data_outside

Hide = Callable[[ModelProto, TensorProto], None]


def pointing_to(location: str) -> TensorProto:
    """Sixteen floats that lie elsewhere."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def initializer(model: ModelProto, tensor: TensorProto) -> None:
    model.graph.initializer.append(tensor)


def constant(model: ModelProto, tensor: TensorProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["w"], value=tensor))


def list_of_tensors(model: ModelProto, tensor: TensorProto) -> None:
    model.graph.node.append(helper.make_node("Odd", [], ["w"], domain="odd", values=[tensor]))


def sparse(model: ModelProto, tensor: TensorProto) -> None:
    indices = numpy_helper.from_array(np.arange(4), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(tensor, indices, [8]))


def indices_of_sparse(model: ModelProto, tensor: TensorProto) -> None:
    values = numpy_helper.from_array(np.ones(4, np.float32), "v")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, tensor, [8]))


def subgraph(model: ModelProto, tensor: TensorProto) -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["b"])],
        "branch",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [4])],
        [tensor],
    )
    inner = helper.make_graph(
        [helper.make_node("If", ["yes"], ["b2"], then_branch=branch, else_branch=branch)],
        "outer branch",
        [],
        [helper.make_tensor_value_info("b2", TensorProto.FLOAT, [4])],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(helper.make_node("If", ["yes"], ["unused"], then_branch=inner, else_branch=inner))


def function(model: ModelProto, tensor: TensorProto) -> None:
    node = helper.make_node("Constant", [], ["w"], value=tensor)
    opsets = [helper.make_opsetid("", 11)]
    model.functions.append(helper.make_function("odd", "Odd", [], ["w"], [node], opsets))


def training(model: ModelProto, tensor: TensorProto) -> None:
    model.training_info.add().algorithm.initializer.append(tensor)


PLACES = [initializer, constant, list_of_tensors, sparse, indices_of_sparse, subgraph, function, training]


@pytest.mark.parametrize("location", ["../../etc/passwd", "/etc/passwd", "here.bin"])
@pytest.mark.parametrize("hide", PLACES)
def test_a_bundle_with_data_outside_its_file_is_refused(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hide: Hide, location: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.bin").write_bytes(bytes(16))  # there to be found
    for role in ("detector", "embedder"):
        model = onnx.load_model_from_string(getattr(bundle, role))
        hide(model, pointing_to(location))
        networks = {"detector": bundle.detector, "embedder": bundle.embedder} | {role: model.SerializeToString()}
        with pytest.raises(BundleError, match=f"The {role} keeps data outside its file"):
            open_networks(networks["detector"], networks["embedder"], bundle.card.contract, RuntimeOptions("cpu"))


def test_a_location_is_enough_even_without_a_path_and_a_path_even_without_a_location(bundle: Bundle) -> None:
    model = onnx.load_model_from_string(bundle.detector)
    assert not keeps_data_outside(bundle.detector)
    only_path = pointing_to("x")
    only_path.ClearField("data_location")
    only_location = TensorProto(name="w", data_location=TensorProto.EXTERNAL)
    default = TensorProto(name="w", data_location=TensorProto.DEFAULT, raw_data=b"j\x00p\x01")
    for tensor, outside in ((only_path, True), (only_location, True), (default, False)):
        copy = ModelProto()
        copy.CopyFrom(model)
        copy.graph.initializer.append(tensor)
        assert keeps_data_outside(copy.SerializeToString()) is outside


@pytest.mark.parametrize(
    "content",
    [b"\x3a", b"\x3a\x05ab", b"\x3b", b"\x08" + b"\xff" * 11, b"\x39abc"],
    ids=["no length", "cut off", "a group", "a number without end", "half a fixed one"],
)
def test_what_is_no_protobuf_is_no_clean_file(content: bytes) -> None:
    with pytest.raises(ValueError, match="cut off|wire type 3|more than ten bytes"):
        keeps_data_outside(content)


def test_a_file_that_only_onnx_runtime_can_read_is_refused(bundle: Bundle) -> None:
    # A group, which protobuf has long given up but skips: what is in it and after it would go unseen.
    with pytest.raises(BundleError, match="The detector is not a valid ONNX file|cannot be loaded"):
        open_networks(
            bundle.detector + b"\xfb\x7f\xfc\x7f", bundle.embedder, bundle.card.contract, RuntimeOptions("cpu")
        )
