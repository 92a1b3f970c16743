"""Rewrites CenterFace so that its graph decodes its own cells, for any batch and any size.

Published: RGB pixels as they are, ``float32 [n, 3, h, w]`` in; four maps at a quarter of the size out: scores, then the
logarithm of height and width, then the centre's offset (y, x) in its cell, then five landmarks (y, x) as shares of the
box. Adopted: ``images`` uint8 ``[n, h, w, 3]`` RGB (h and w multiples of 32) in; ``boxes``, ``scores`` and
``landmarks`` out as ``export.yunet`` has them, with a = h·w/16. The file declares ten images of 32×32, which its
operators do not depend on.

The cells around a centre propose the same face with lower scores; suppressing those is left to who reads the boxes.

Source: Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point", arXiv 1911.03599; the decoding
is the one of the authors' demonstration, without cutting boxes at the image's border: the landmarks hang on a corner,
and a face that reaches outside would have them moved.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, helper

from export import graph as g
from export.anchors import BOXES_SCORES_LANDMARKS, grid
from service.errors import BundleError

STRIDE = 4
# Planes of the published outputs, in their order.
_WIDTHS = {"score": 1, "log_size": 2, "offset": 2, "points": 10}


def adopt_centerface(model: ModelProto, metadata: Mapping[str, str]) -> ModelProto:
    """Return the self-contained detector graph; ``model`` is changed in place.

    Raises:
        BundleError: the graph does not have CenterFace's outputs.
    """
    graph = model.graph
    known = g.weights(graph)
    images = [i.name for i in graph.input if i.name not in known]
    shapes = [[d.dim_value for d in output.type.tensor_type.shape.dim] for output in graph.output]
    widths = [shape[1] if len(shape) == 4 else 0 for shape in shapes]
    expected = list(_WIDTHS.values())
    if len(images) != 1 or widths != expected:
        raise BundleError(
            f"This is not CenterFace: {len(images)} inputs and outputs of {widths} planes, expected 1 and {expected}."
        )
    maps = dict(zip(_WIDTHS, [output.name for output in graph.output], strict=True))
    nodes = [*g.images_to_planes("images", images[0]), *graph.node, *_decode(graph, maps)]
    del graph.node[:]
    graph.node.extend(nodes)
    g.replace_io(graph, [g.images_input("images", "h", "w")], BOXES_SCORES_LANDMARKS)
    return g.finish(model, metadata)


def _decode(graph: GraphProto, maps: Mapping[str, str]) -> list[NodeProto]:
    """Nodes from the maps to boxes, scores and landmarks in pixels.

    With (c, r) the column and row of a cell and (y, x) as published turned round: size = 4·exp s,
    corner = ((c, r) + o + ½)·4 − size/2, landmark i = corner + k₂ᵢ‥₂ᵢ₊₁·size.
    """

    def const(name: str, value: object, dtype: type[np.generic]) -> str:
        return g.set_weight(graph, f"decode/{name}", np.array(value, dtype))

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
        return helper.make_node(op, inputs, [output], **attributes)

    def cells_last(kind: str, shape: list[int]) -> list[NodeProto]:
        """(n, k, rows, columns) to (n, cells, ...), with x before y on the last axis."""
        return [
            node("Transpose", [maps[kind]], f"{kind}_map", perm=[0, 2, 3, 1]),
            node("Reshape", [f"{kind}_map", const(f"{kind}_shape", shape, np.int64)], f"{kind}_yx"),
            node("Gather", [f"{kind}_yx", const("x_before_y", [1, 0], np.int64)], f"{kind}_xy", axis=len(shape) - 1),
        ]

    return [
        *cells_last("log_size", [0, -1, 2]),
        *cells_last("offset", [0, -1, 2]),
        *cells_last("points", [0, -1, 5, 2]),
        *grid(graph, "log_size_map", STRIDE),
        # Boxes.
        node("Exp", ["log_size_xy"], "size_cells"),
        node("Mul", ["size_cells", const("stride", STRIDE, np.float32)], "size"),
        node("Mul", ["size_cells", const("half_stride", STRIDE / 2, np.float32)], "half_size"),
        node("Add", [f"grid_{STRIDE}", const("half", 0.5, np.float32)], "cell_centres"),
        node("Add", ["offset_xy", "cell_centres"], "centre_cells"),
        node("Mul", ["centre_cells", "decode/stride"], "centre"),
        node("Sub", ["centre", "half_size"], "top_left"),
        node("Add", ["centre", "half_size"], "bottom_right"),
        node("Concat", ["top_left", "bottom_right"], "boxes", axis=2),
        # Scores.
        node("Reshape", [maps["score"], const("flat_scores", [0, -1], np.int64)], "scores"),
        # Landmarks.
        node("Unsqueeze", ["size"], "size_of_points", axes=[2]),
        node("Unsqueeze", ["top_left"], "corner_of_points", axes=[2]),
        node("Mul", ["points_xy", "size_of_points"], "points_pixels"),
        node("Add", ["points_pixels", "corner_of_points"], "landmarks"),
    ]
