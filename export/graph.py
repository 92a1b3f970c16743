"""Small, exact rewrites of ONNX graphs that every adoption uses. Pure ``onnx`` and numpy; nothing is run here."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from service.errors import BundleError

# Operators used by the rewrites (Range, Slice with inputs, Reshape with 0) are all there since opset 11.
OLDEST_OPSET = 11


def load_network(path: Path) -> ModelProto:
    """Read a published ONNX file and check that it is whole and self-contained.

    Raises:
        BundleError: not ONNX, an opset older than 11, or weights kept outside the file.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf raises unrelated types
        raise BundleError(f"{path.name} is not a valid ONNX file: {error}") from error
    # Before the checker, which looks for the other file.
    if any(t.data_location == TensorProto.EXTERNAL for t in model.graph.initializer):
        raise BundleError(f"{path.name} keeps weights outside the file; one self-contained file is needed.")
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # the checker raises unrelated types
        raise BundleError(f"{path.name} is not a valid ONNX file: {error}") from error
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < OLDEST_OPSET:
        raise BundleError(f"{path.name} is opset {opset}; at least {OLDEST_OPSET} is needed. Convert it first.")
    return model


def weights(graph: GraphProto) -> dict[str, NDArray[np.float32]]:
    """The graph's initializers by name, as read-only arrays."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def set_weight(graph: GraphProto, name: str, value: NDArray[np.generic]) -> str:
    """Add or replace an initializer; returns its name for use as a node input."""
    tensor = numpy_helper.from_array(np.ascontiguousarray(value), name)
    for index, existing in enumerate(graph.initializer):
        if existing.name == name:
            graph.initializer[index].CopyFrom(tensor)
            return name
    graph.initializer.append(tensor)
    return name


def replace_io(
    graph: GraphProto, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
) -> None:
    """Set the graph's inputs and outputs; weights listed as inputs (which blocks constant folding) go."""
    del graph.input[:], graph.output[:]
    graph.input.extend(inputs)
    graph.output.extend(outputs)
    # Shapes recorded for the old, fixed batch would contradict the new ones.
    del graph.value_info[:]


def images_input(name: str, height: int | str, width: int | str) -> onnx.ValueInfoProto:
    """``uint8 [n, height, width, 3]`` RGB; a string is a dynamic axis."""
    return helper.make_tensor_value_info(name, TensorProto.UINT8, ["n", height, width, 3])


def images_to_planes(images: str, planes: str) -> list[NodeProto]:
    """Nodes from ``uint8 [n, h, w, 3]`` to ``float32 [n, 3, h, w]``, values unchanged (0 to 255).

    Transposed while still uint8: a quarter of the bytes to move.
    """
    return [
        helper.make_node("Transpose", [images], [f"{planes}_u8"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", [f"{planes}_u8"], [planes], to=TensorProto.FLOAT),
    ]


def expand_prelu(graph: GraphProto) -> int:
    """Rewrite every PRelu exactly as ``a·x + (1 − a)·relu(x)``; returns how many.

    ONNX Runtime's PRelu leaves the blocked memory layout of its convolutions on CPU; Mul, Relu and Add stay in it.
    """
    known = weights(graph)
    rewritten: list[NodeProto] = []
    count = 0
    for node in graph.node:
        if node.op_type != "PRelu" or node.input[1] not in known:
            rewritten.append(node)
            continue
        x, slope_name, y = node.input[0], node.input[1], node.output[0]
        slope = known[slope_name]
        rest = set_weight(graph, f"{y}/one_minus_slope", (1.0 - slope.astype(np.float64)).astype(np.float32))
        rewritten += [
            helper.make_node("Relu", [x], [f"{y}/relu"]),
            helper.make_node("Mul", [x, slope_name], [f"{y}/linear"]),
            helper.make_node("Mul", [f"{y}/relu", rest], [f"{y}/rectified"]),
            helper.make_node("Add", [f"{y}/linear", f"{y}/rectified"], [y]),
        ]
        count += 1
    del graph.node[:]
    graph.node.extend(rewritten)
    return count


def finish(model: ModelProto, metadata: Mapping[str, str]) -> ModelProto:
    """Stamp ``metadata`` into the file and check the result, shapes included.

    Raises:
        BundleError: the rewritten graph is not valid ONNX.
    """
    del model.metadata_props[:]
    helper.set_model_props(model, dict(metadata))
    model.producer_name, model.producer_version = "likeness", ""
    # IR 4 is the first that lets weights be initializers without being inputs.
    model.ir_version = max(model.ir_version, 8)
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        onnx.checker.check_model(inferred, full_check=True)
    except Exception as error:  # the checker and the inference raise unrelated types
        raise BundleError(f"The rewritten graph is not valid ONNX: {error}") from error
    return model
