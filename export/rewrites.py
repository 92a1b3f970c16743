"""Exact rewrites of an embedder's graph: the same function in operators that run faster somewhere.

Which of them are kept is measured, see ``export.machine``. Each takes a graph, changes it in place and returns how many
places it changed; 0 where there is nothing for it to do.
"""

from collections import defaultdict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, helper

from export.graph import keep, set_weight, weights

Rewrite = Callable[[GraphProto], int]
Exact = NDArray[np.float64]


def expand_prelu(graph: GraphProto) -> int:
    """Every PRelu as ``a·x + (1 − a)·relu(x)``.

    ONNX Runtime's PRelu leaves the blocked memory layout of its convolutions on CPU; Mul, Relu and Add stay in it.
    """

    def nodes(x: str, slope: Exact, y: str) -> list[NodeProto]:
        linear = set_weight(graph, f"{y}/slope", slope.astype(np.float32))
        rest = set_weight(graph, f"{y}/one_minus_slope", (1.0 - slope).astype(np.float32))
        return [
            helper.make_node("Relu", [x], [f"{y}/relu"]),
            helper.make_node("Mul", [x, linear], [f"{y}/linear"]),
            helper.make_node("Mul", [f"{y}/relu", rest], [f"{y}/rectified"]),
            helper.make_node("Add", [f"{y}/linear", f"{y}/rectified"], [y]),
        ]

    return _replace_prelus(graph, lambda _: True, nodes)


def prelu_by_depthwise(graph: GraphProto) -> int:
    """Every PRelu with a slope for each channel as ``x + s·relu(−|1 − a|·x)``, s = 1 where a ≤ 1, else −1.

    Both products are depthwise 1×1 convolutions, into which ONNX Runtime fuses the Relu and the Add: two passes over
    the memory instead of four, all in the blocked layout.
    """

    def nodes(x: str, slope: Exact, y: str) -> list[NodeProto]:
        a = slope.reshape(-1, 1, 1, 1)
        inner = set_weight(graph, f"{y}/inner", (-np.abs(1.0 - a)).astype(np.float32))
        outer = set_weight(graph, f"{y}/outer", np.where(a <= 1, 1, -1).astype(np.float32))

        def scale(source: str, by: str, target: str) -> NodeProto:
            return helper.make_node("Conv", [source, by], [target], group=len(a), kernel_shape=[1, 1])

        return [
            scale(x, inner, f"{y}/scaled"),
            helper.make_node("Relu", [f"{y}/scaled"], [f"{y}/relu"]),
            scale(f"{y}/relu", outer, f"{y}/rectified"),
            helper.make_node("Add", [f"{y}/rectified", x], [y]),
        ]

    return _replace_prelus(graph, _per_channel, nodes)


def fold_batch_norms(graph: GraphProto) -> int:
    """Fold batch norms into the Conv or Gemm before them, or into the Gemm that follows with only a Flatten between.

    In float64, rounded once. ONNX Runtime does the former when it loads a graph, but not the latter.
    """
    known = {name: value.astype(np.float64) for name, value in weights(graph).items() if value.dtype.kind == "f"}
    users = _users(graph)
    makers = {output: node for node in graph.node for output in node.output}
    kept: list[NodeProto] = []
    for node in graph.node:
        kept.append(node)
        if node.op_type != "BatchNormalization" or any(name not in known for name in node.input[1:]):
            continue
        gamma, beta, mean, variance = (known[name] for name in node.input[1:])
        scale = gamma / np.sqrt(variance + float(_attribute(node, "epsilon", 1e-5)))
        shift = beta - mean * scale
        before = makers.get(node.input[0])
        if before is not None and _is_linear(before, known) and len(users[node.input[0]]) == 1:
            _scale_outputs(graph, before, known, scale, shift)
            before.output[0] = node.output[0]
            makers[node.output[0]] = before
        elif (after := _gemm_after_flatten(node, users, known)) is not None:
            flatten, gemm = after
            _scale_inputs(graph, gemm, known, scale, shift)
            flatten.input[0] = node.input[0]
            users[node.input[0]] = [flatten]
        else:
            continue
        kept.pop()
    count = len(graph.node) - len(kept)
    keep(graph, kept)
    return count


def widen_groups(block: int) -> Rewrite:
    """Convolutions of groups with fewer than ``block`` channels in groups of ``block``, the new weights zero.

    ONNX Runtime's blocked layout takes depthwise convolutions, and groups that are a multiple of its block of 8 or 16
    channels; around any other the whole image is reordered twice, and the products are made by im2col.
    """

    def rewrite(graph: GraphProto) -> int:
        known = weights(graph)
        count = 0
        for node in graph.node:
            groups = int(_attribute(node, "group", 1))
            if node.op_type != "Conv" or groups == 1 or node.input[1] not in known:
                continue
            narrow = known[node.input[1]]
            outputs, channels = narrow.shape[:2]
            if not 1 < channels < block or block % channels or (groups * channels) % block:
                continue
            wide = np.zeros((outputs, block, *narrow.shape[2:]), narrow.dtype)
            for output in range(outputs):
                first = output // (outputs // groups) * channels % block
                wide[output, first : first + channels] = narrow[output]
            node.input[1] = set_weight(graph, f"{node.output[0]}/groups_of_{block}", wide)
            next(a for a in node.attribute if a.name == "group").i = groups * channels // block
            count += 1
        keep(graph, list(graph.node))
        return count

    return rewrite


def _per_channel(slope: Exact) -> bool:
    return slope.ndim >= 3 and slope.shape[-2:] == (1, 1) and slope.size == slope.shape[-3] > 1


def _replace_prelus(
    graph: GraphProto, fits: Callable[[Exact], bool], nodes: Callable[[str, Exact, str], list[NodeProto]]
) -> int:
    known = weights(graph)
    rewritten: list[NodeProto] = []
    count = 0
    for node in graph.node:
        slope = known[node.input[1]].astype(np.float64) if node.op_type == "PRelu" and node.input[1] in known else None
        if slope is None or not fits(slope):
            rewritten.append(node)
        else:
            rewritten += nodes(node.input[0], slope, node.output[0])
            count += 1
    keep(graph, rewritten)
    return count


def _users(graph: GraphProto) -> dict[str, list[NodeProto]]:
    """Who reads each value; an output of the graph counts as one more, so that it is never taken for unshared."""
    users: dict[str, list[NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            users[name].append(node)
    for output in graph.output:
        users[output.name].append(NodeProto())
    return users


def _attribute(node: NodeProto, name: str, default: float) -> float:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _is_linear(node: NodeProto, known: dict[str, Exact]) -> bool:
    """A Conv, or a Gemm as exporters write it, with constant weights."""
    plain = node.op_type == "Conv" or (
        node.op_type == "Gemm" and _attribute(node, "alpha", 1) == _attribute(node, "beta", 1) == 1
    )
    return plain and all(name in known for name in node.input[1:])


def _gemm_after_flatten(
    node: NodeProto, users: dict[str, list[NodeProto]], known: dict[str, Exact]
) -> tuple[NodeProto, NodeProto] | None:
    chain = [node]
    for kind in ("Flatten", "Gemm"):
        readers = users[chain[-1].output[0]]
        if len(readers) != 1 or readers[0].op_type != kind:
            return None
        chain.append(readers[0])
    _, flatten, gemm = chain
    plain = _is_linear(gemm, known) and _attribute(gemm, "transA", 0) == 0 and _attribute(flatten, "axis", 1) == 1
    return (flatten, gemm) if plain else None


def _scale_outputs(graph: GraphProto, node: NodeProto, known: dict[str, Exact], scale: Exact, shift: Exact) -> None:
    weight = known[node.input[1]]
    last = node.op_type == "Gemm" and _attribute(node, "transB", 0) == 0
    bias = known[node.input[2]] if len(node.input) > 2 else np.zeros(len(scale))
    _set_linear(
        graph,
        node,
        known,
        weight * (scale if last else scale.reshape(-1, *[1] * (weight.ndim - 1))),
        bias * scale + shift,
    )


def _scale_inputs(graph: GraphProto, gemm: NodeProto, known: dict[str, Exact], scale: Exact, shift: Exact) -> None:
    weight = known[gemm.input[1]]
    transposed = _attribute(gemm, "transB", 0) == 1
    rows = weight if transposed else weight.T  # one for each output
    by_channel = rows.reshape(len(rows), len(scale), -1)
    bias = known[gemm.input[2]] if len(gemm.input) > 2 else np.zeros(len(by_channel))
    scaled = (by_channel * scale[None, :, None]).reshape(len(by_channel), -1)
    moved = bias + np.einsum("dcp,c->d", by_channel, shift)
    _set_linear(graph, gemm, known, scaled if transposed else scaled.T, moved)


def _set_linear(graph: GraphProto, node: NodeProto, known: dict[str, Exact], weight: Exact, bias: Exact) -> None:
    """Give a Conv or Gemm new constants under new names: others may read the old ones."""
    del node.input[1:]
    for name, value in ((f"{node.output[0]}/weight", weight), (f"{node.output[0]}/bias", bias)):
        known[name] = value
        node.input.append(set_weight(graph, name, value.astype(np.float32)))
