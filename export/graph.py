"""Small, exact rewrites of ONNX graphs that every adoption uses. Pure ``onnx`` and numpy; nothing is run here."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import onnx.version_converter
from google.protobuf.message import Message
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from service.errors import BundleError

# Operators used by the rewrites (Range, Slice with inputs, Reshape with 0) are all there since opset 11.
OLDEST_OPSET = 11

_RESHAPING = frozenset({"Constant", "Unsqueeze", "Squeeze", "Transpose", "Reshape"})


def load_network(path: Path) -> ModelProto:
    """Read a published ONNX file and check that it is whole and self-contained; an old opset is brought to 11.

    Raises:
        BundleError: not ONNX, weights kept outside the file, or an old opset that cannot be converted.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf raises unrelated types
        raise BundleError(f"{path.name} is not a valid ONNX file: {error}") from error
    # Before the checker, which looks for the other file.
    if any(t.data_location == TensorProto.EXTERNAL for t in _tensors(model)):
        raise BundleError(f"{path.name} keeps weights outside the file; one self-contained file is needed.")
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # the checker raises unrelated types
        raise BundleError(f"{path.name} is not a valid ONNX file: {error}") from error
    if opset(model) >= OLDEST_OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, OLDEST_OPSET)
    except Exception as error:  # the converter raises unrelated types
        raise BundleError(
            f"{path.name} is opset {opset(model)}; at least {OLDEST_OPSET} is needed, and it cannot be converted: "
            f"{error}"
        ) from error


def _tensors(message: Message) -> Iterator[TensorProto]:
    """Every tensor in a model, wherever it is: among the weights, sparse ones, in attributes, subgraphs, functions."""
    if isinstance(message, TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in value if field.is_repeated else (value,):
                yield from _tensors(inner)


def opset(model: ModelProto) -> int:
    """Version of the standard operators that a model is written in; 0 if it uses none."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


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


def reduce(model: ModelProto, op: str, source: str, output: str, axis: int, keepdims: int = 0) -> NodeProto:
    """ReduceSum or ReduceL2 along one axis. Newer opsets take the axes as an input, older ones as an attribute."""
    if opset(model) < {"ReduceSum": 13, "ReduceL2": 18}[op]:
        return helper.make_node(op, [source], [output], axes=[axis], keepdims=keepdims)
    axes = set_weight(model.graph, f"reduce/axis_{axis}", np.array([axis], np.int64))
    return helper.make_node(op, [source, axes], [output], keepdims=keepdims)


def drop_identities(graph: GraphProto) -> None:
    """Read what an Identity copies instead of the copy; torch's exporter has one for every weight equal to another.

    A Dropout is one, too, as long as nobody reads its mask.
    """
    outputs = {output.name for output in graph.output}
    copies: dict[str, str] = {}
    kept: list[NodeProto] = []
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = copies.get(name, name)
        identity = node.op_type == "Identity" or (node.op_type == "Dropout" and len(node.input) == 1)
        if identity and list(node.output) == [node.output[0]] and node.output[0] not in outputs:
            copies[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def fold_constants(model: ModelProto) -> int:
    """Carry out what only reshapes constants; exporters leave such nodes between a weight and its user.

    Returns:
        how many nodes went.
    """
    graph = model.graph
    known = weights(graph)
    outputs = {output.name for output in graph.output}
    kept: list[NodeProto] = []
    for node in graph.node:
        constant = node.op_type in _RESHAPING and all(name in known for name in node.input)
        if not constant or len(node.output) != 1 or node.output[0] in outputs:
            kept.append(node)
            continue
        alone = helper.make_graph([node], "constant", [], [helper.make_empty_tensor_value_info(node.output[0])])
        alone.initializer.extend(numpy_helper.from_array(known[name], name) for name in node.input)
        evaluator = ReferenceEvaluator(helper.make_model(alone, opset_imports=model.opset_import))
        [value] = cast(list[NDArray[np.float32]], evaluator.run(None, {}))
        known[set_weight(graph, node.output[0], value)] = value
    count = len(graph.node) - len(kept)
    keep(graph, kept)
    return count


def keep(graph: GraphProto, nodes: Sequence[NodeProto]) -> None:
    """Set the graph's nodes; weights that nobody reads any more go."""
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def stamp(model: ModelProto, metadata: Mapping[str, str]) -> None:
    """Write ``metadata`` into the file, in the place of what was there."""
    del model.metadata_props[:]
    helper.set_model_props(model, dict(metadata))


def finish(model: ModelProto, metadata: Mapping[str, str]) -> ModelProto:
    """Stamp ``metadata`` into the file and check the result, shapes included.

    Raises:
        BundleError: the rewritten graph is not valid ONNX.
    """
    stamp(model, metadata)
    model.producer_name, model.producer_version = "likeness", ""
    # IR 4 is the first that lets weights be initializers without being inputs.
    model.ir_version = max(model.ir_version, 8)
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        onnx.checker.check_model(inferred, full_check=True)
    except Exception as error:  # the checker and the inference raise unrelated types
        raise BundleError(f"The rewritten graph is not valid ONNX: {error}") from error
    return model
