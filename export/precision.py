"""An adopted embedder's graph in another precision: float16, int8, or int8 weights alone. Crops, fusion and the L2 norm
stay as they are: uint8 in, float32 out.

Weights are rounded to nearest; scales are symmetric, s = max|w| / 127.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from export.graph import finish, keep, opset, set_weight, stamp, weights

BLOCK = 32  # of input channels that share a scale
# Smaller weights stay float32: they are slopes and biases, and weigh nothing.
MIN_WEIGHTS = 1024

_LINEAR = ("Conv", "Gemm")


def to_float16(model: ModelProto) -> ModelProto:
    """From the first Conv or Gemm to the last in float16, weights and arithmetic."""
    copy = _copy(model)
    graph = copy.graph
    inside = _body(graph)
    known = weights(graph)
    made = {output for index in inside for output in graph.node[index].output}
    casts: dict[str, str] = {}
    nodes: list[NodeProto] = []

    def cast(name: str, to: int, kind: str) -> str:
        if name not in casts:
            casts[name] = f"{name}/{kind}"
            nodes.append(helper.make_node("Cast", [name], [casts[name]], to=to))
        return casts[name]

    for index, node in enumerate(graph.node):
        for place, name in enumerate(node.input):
            if index not in inside:
                if name in made:
                    node.input[place] = cast(name, TensorProto.FLOAT, "float32")
            elif name not in known:
                if name not in made:
                    node.input[place] = cast(name, TensorProto.FLOAT16, "float16")
            elif known[name].dtype == np.float32:
                node.input[place] = set_weight(graph, f"{name}/float16", known[name].astype(np.float16))
        nodes.append(node)
    keep(graph, nodes)
    return _finish(copy)


def to_int8_weights(model: ModelProto) -> ModelProto:
    """Weights of Conv and Gemm as int8 with a float32 scale for each ``BLOCK`` of inputs; arithmetic in float32.

    Written as Cast, Mul and Reshape of constants, which ONNX Runtime carries out when it loads the graph: the file is
    small, and speed and memory are those of float32.
    """
    copy = _copy(model)
    graph = copy.graph
    known = weights(graph)
    nodes: list[NodeProto] = []
    for node in graph.node:
        weight = known.get(node.input[1]) if node.op_type in _LINEAR else None
        if weight is not None and weight.size >= MIN_WEIGHTS:
            nodes += _stored_as_int8(graph, node, weight)
        nodes.append(node)
    keep(graph, nodes)
    return _finish(copy)


def to_int8(model: ModelProto, crops: NDArray[np.uint8]) -> ModelProto:
    """Dense convolutions in int8, calibrated on aligned ``crops`` (n, 112, 112, 3); the first stays float32.

    By ONNX Runtime's own quantiser (QDQ): weights int8 for each output channel, activations uint8. What follows the
    last convolution, depthwise convolutions and activations stay float32: they hold few of the products, and most of
    what int8 would spoil.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    # DequantizeLinear has a scale for each channel since opset 13.
    copy = onnx.version_converter.convert_version(model, 13) if opset(model) < 13 else _copy(model)
    for index, node in enumerate(copy.graph.node):
        node.name = f"{node.op_type}_{index}"
    dense = [n.name for n in copy.graph.node if n.op_type == "Conv" and _groups(n) == 1]
    # Its advice to fold batch norms and the like beforehand has been followed.
    add_pre_process_metadata(copy)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "int8.onnx"
        quantize_static(
            copy,
            str(out),
            _Crops(crops),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=dense[1:],
            calibrate_method=CalibrationMethod.MinMax,
        )
        quantised = onnx.load(str(out))
    # What stays float32 in the arithmetic need not be kept as such in the file.
    stamp(quantised, _metadata(model))
    return to_int8_weights(quantised)


class _Crops:
    """Crops one by one, as ONNX Runtime's calibration asks for them."""

    def __init__(self, crops: NDArray[np.uint8]) -> None:
        self._rest: Iterator[NDArray[np.uint8]] = iter(crops)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        crop = next(self._rest, None)
        return None if crop is None else {"crops": crop[None]}


def _stored_as_int8(graph: GraphProto, node: NodeProto, weight: NDArray[np.float32]) -> list[NodeProto]:
    """Nodes that make the weight again; the node reads what they give."""
    rows, columns = weight.shape[0], weight.size // weight.shape[0]
    block = BLOCK if weight[0].shape[0] % BLOCK == 0 and weight[0].size == weight[0].shape[0] else columns
    blocks = weight.astype(np.float64).reshape(rows, columns // block, block)
    scale = np.abs(blocks).max(axis=2, keepdims=True) / 127
    scale[scale == 0] = 1
    name = f"{node.output[0]}/weight"
    stored = set_weight(graph, f"{name}/int8", np.rint(blocks / scale).astype(np.int8))
    scales = set_weight(graph, f"{name}/scale", scale.astype(np.float32))
    shape = set_weight(graph, f"{name}/shape", np.array(weight.shape, np.int64))
    node.input[1] = f"{name}/float32"
    return [
        helper.make_node("Cast", [stored], [f"{name}/cast"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}/cast", scales], [f"{name}/scaled"]),
        helper.make_node("Reshape", [f"{name}/scaled", shape], [node.input[1]]),
    ]


def _body(graph: GraphProto) -> set[int]:
    """Which nodes lie between the first Conv or Gemm and the last, those included: their places in the graph."""
    nodes = list(enumerate(graph.node))
    made: set[str] = set()
    following: set[int] = set()
    for index, node in nodes:
        if node.op_type in _LINEAR or not made.isdisjoint(node.input):
            made.update(node.output)
            following.add(index)
    needed: set[str] = set()
    leading: set[int] = set()
    for index, node in reversed(nodes):
        if node.op_type in _LINEAR or not needed.isdisjoint(node.output):
            needed.update(node.input)
            leading.add(index)
    return following & leading


def _groups(node: NodeProto) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "group"), 1)


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _metadata(model: ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _finish(model: ModelProto) -> ModelProto:
    del model.graph.value_info[:]
    return finish(model, _metadata(model))
