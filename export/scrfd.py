"""Rewrites SCRFD with five landmarks so that its graph decodes its own anchors, for any batch and any size.

Published: RGB ``(x − 127.5)/128``, ``float32 [1, 3, h, w]`` in, nine undecoded maps out: scores, then distances to the
box's sides, then landmarks, each for strides 8, 16 and 32. Adopted: ``images`` uint8 ``[n, h, w, 3]`` RGB (h and w
multiples of 32) in; ``boxes``, ``scores`` and ``landmarks`` out as ``export.yunet`` has them, with a = Σ 2·h·w/s² over
the strides s.

Source: Guo et al., "Sample and Computation Redistribution for Efficient Face Detection", arXiv 2105.04714; the
decoding is the one of ``insightface.model_zoo.scrfd``, which the tests use as the oracle.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, helper

from export import graph as g
from export.anchors import BOXES_SCORES_LANDMARKS, grid
from service.errors import BundleError

STRIDES = (8, 16, 32)
MEAN, SCALE = 127.5, 128.0
# Values for each anchor in the published outputs, in their order: the names differ from file to file.
_WIDTHS = {"score": 1, "distances": 4, "points": 10}


def adopt_scrfd(model: ModelProto, metadata: Mapping[str, str]) -> ModelProto:
    """Return the self-contained detector graph; ``model`` is changed in place.

    Raises:
        BundleError: the graph does not have the outputs of an SCRFD with five landmarks.
    """
    graph = model.graph
    known = g.weights(graph)
    images = [i.name for i in graph.input if i.name not in known]
    shapes = [[d.dim_value for d in output.type.tensor_type.shape.dim] for output in graph.output]
    widths = [shape[-1] if shape else 0 for shape in shapes]
    expected = [width for width in _WIDTHS.values() for _ in STRIDES]
    if len(images) != 1 or widths != expected:
        raise BundleError(
            f"This is not SCRFD with five landmarks: {len(images)} inputs and outputs of widths {widths}, "
            f"expected 1 and {expected}."
        )
    published = [output.name for output in graph.output]
    nodes = [*_prepare(graph, images[0]), *graph.node]
    for i, stride in enumerate(STRIDES):
        maps = dict(zip(_WIDTHS, published[i :: len(STRIDES)], strict=True))
        sources = {kind: _free_batch(graph, name, _WIDTHS[kind]) for kind, name in maps.items()}
        nodes += _decode(graph, stride, maps, sources["distances"])
    for output in BOXES_SCORES_LANDMARKS:
        nodes.append(helper.make_node("Concat", [f"{output.name}_at_{s}" for s in STRIDES], [output.name], axis=1))
    del graph.node[:]
    graph.node.extend(nodes)
    g.replace_io(graph, [g.images_input("images", "h", "w")], BOXES_SCORES_LANDMARKS)
    return g.finish(model, metadata)


def _prepare(graph: GraphProto, image: str) -> list[NodeProto]:
    """Nodes from ``images`` to the network's own input.

    Not folded into the first convolution, which pads with zeros after this.
    """
    mean = g.set_weight(graph, "normalise/mean", np.array(MEAN, np.float32))
    scale = g.set_weight(graph, "normalise/scale", np.array(SCALE, np.float32))
    return [
        *g.images_to_planes("images", "planes"),
        helper.make_node("Sub", ["planes", mean], ["centred"]),
        helper.make_node("Div", ["centred", scale], [image]),
    ]


def _free_batch(graph: GraphProto, output: str, width: int) -> str:
    """Let one head keep its batch axis: maps (n, 2k, rows, columns) to (n, 2·rows·columns, k), cell by cell.

    Some files flatten the batch together with the cells. Returns the name of the transposed map.
    """
    producers = {name: node for node in graph.node for name in node.output}
    heads: dict[str, NodeProto] = {}
    name = output
    while name in producers and producers[name].op_type in ("Sigmoid", "Reshape", "Transpose"):
        node = producers[name]
        heads[node.op_type] = node
        name = node.input[0]
    if not {"Reshape", "Transpose"} <= heads.keys():
        raise BundleError(f"This is not SCRFD: output {output!r} does not come from a transposed and reshaped map.")
    heads["Reshape"].input[1] = g.set_weight(graph, f"decode/anchors_{width}", np.array([0, -1, width], np.int64))
    [permutation] = heads["Transpose"].attribute
    permutation.ints[:] = [0, 2, 3, 1]
    return str(heads["Transpose"].output[0])


def _decode(graph: GraphProto, s: int, maps: Mapping[str, str], grid_source: str) -> list[NodeProto]:
    """Nodes that turn one stride's outputs into boxes, scores and landmarks in pixels.

    With (c, r) the column and row of a cell, which has two anchors: box = ((c, r) − d₀₁, (c, r) + d₂₃)·s,
    landmark i = (c + k₂ᵢ, r + k₂ᵢ₊₁)·s.
    """

    def const(name: str, value: object, dtype: type[np.generic]) -> str:
        return g.set_weight(graph, f"decode/{name}", np.array(value, dtype))

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
        return helper.make_node(op, inputs, [f"{output}_at_{s}"], **attributes)

    stride = const(f"stride_{s}", float(s), np.float32)
    five_points = const("five_points", [0, -1, 5, 2], np.int64)
    return [
        *grid(graph, grid_source, s),
        node("Concat", [f"grid_{s}", f"grid_{s}"], "grid_twice", axis=2),
        node("Reshape", [f"grid_twice_at_{s}", const("flat_grid", [1, -1, 2], np.int64)], "cells"),
        helper.make_node("Split", [maps["distances"]], [f"before_at_{s}", f"after_at_{s}"], axis=2, split=[2, 2]),
        node("Sub", [f"cells_at_{s}", f"before_at_{s}"], "top_left"),
        node("Add", [f"cells_at_{s}", f"after_at_{s}"], "bottom_right"),
        node("Concat", [f"top_left_at_{s}", f"bottom_right_at_{s}"], "box_cells", axis=2),
        node("Mul", [f"box_cells_at_{s}", stride], "boxes"),
        node("Squeeze", [maps["score"]], "scores", axes=[2]),
        node("Reshape", [maps["points"], five_points], "points"),
        node("Unsqueeze", [f"cells_at_{s}"], "cells_of_points", axes=[2]),
        node("Add", [f"points_at_{s}", f"cells_of_points_at_{s}"], "points_cells"),
        node("Mul", [f"points_cells_at_{s}", stride], "landmarks"),
    ]
