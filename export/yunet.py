"""Rewrites YuNet so that its graph decodes its own anchors, for any batch and any size.

Published: BGR ``float32 [1, 3, 640, 640]`` in, twelve undecoded maps out. Adopted: ``images`` uint8 ``[n, h, w, 3]``
RGB (h and w multiples of 32) in; ``boxes`` float32 ``[n, a, 4]`` (x1, y1, x2, y2 in input pixels), ``scores``
``[n, a]`` in 0..1 and ``landmarks`` ``[n, a, 5, 2]`` (right eye of the person first, which is the viewer's left) out,
with a = Σ h·w/s² over the strides s.

Source: Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", 2023; the decoding is the one of OpenCV's
``FaceDetectorYN``, which the tests use as the oracle.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper

from export import graph as g
from export.anchors import BOXES_SCORES_LANDMARKS, grid
from service.errors import BundleError

STRIDES = (8, 16, 32)


def adopt_yunet(model: ModelProto, metadata: Mapping[str, str]) -> ModelProto:
    """Return the self-contained detector graph; ``model`` is changed in place.

    Raises:
        BundleError: the graph does not have YuNet's outputs.
    """
    graph = model.graph
    published = {output.name for output in graph.output}
    expected = {f"{kind}_{s}" for kind in ("cls", "obj", "bbox", "kps") for s in STRIDES}
    if published != expected:
        raise BundleError(f"This is not YuNet: outputs {sorted(published)}, expected {sorted(expected)}.")
    if len(graph.input) != 1:
        raise BundleError(f"This is not YuNet: {len(graph.input)} inputs, expected 1.")
    image = graph.input[0].name

    _take_rgb(model, image)
    _free_batch(model)
    nodes = [*g.images_to_planes("images", image), *graph.node]
    for stride in STRIDES:
        nodes += _decode(model, stride)
    for kind in ("boxes", "scores", "landmarks"):
        nodes.append(helper.make_node("Concat", [f"{kind}_{s}" for s in STRIDES], [kind], axis=1))
    del graph.node[:]
    graph.node.extend(nodes)
    g.replace_io(
        graph,
        [g.images_input("images", "h", "w")],
        BOXES_SCORES_LANDMARKS,
    )
    return g.finish(model, metadata)


def _take_rgb(model: ModelProto, image: str) -> None:
    """Reverse the input channels of the first convolution: exact, and free at run time."""
    first = next(node for node in model.graph.node if image in node.input)
    if first.op_type != "Conv":
        raise BundleError(f"This is not YuNet: its first node is {first.op_type}, expected Conv.")
    kernel = g.weights(model.graph)[first.input[1]]  # (out, 3, kh, kw)
    g.set_weight(model.graph, first.input[1], kernel[:, ::-1])


def _free_batch(model: ModelProto) -> None:
    """The heads flatten with a constant [1, -1, k]; 0 in its place keeps the batch axis as it comes."""
    known = g.weights(model.graph)
    for name in {node.input[1] for node in model.graph.node if node.op_type == "Reshape"}:
        g.set_weight(model.graph, name, np.array([0, -1, known[name][-1]], np.int64))


def _decode(model: ModelProto, s: int) -> list[NodeProto]:
    """Nodes from the maps of one stride to boxes, scores and landmarks in pixels.

    With (c, r) the column and row of a cell: centre = (c + b₀, r + b₁)·s, size = (exp b₂, exp b₃)·s,
    landmark i = (c + k₂ᵢ, r + k₂ᵢ₊₁)·s, score = √(cls·obj).
    """
    graph = model.graph
    producers = {node.output[0]: node for node in graph.node}
    reshape = producers[f"bbox_{s}"]
    grid_source = producers[reshape.input[0]].output[0]  # (n, rows, columns, 4), the transposed map

    def const(name: str, value: object, dtype: type[np.generic]) -> str:
        return g.set_weight(graph, f"decode/{name}", np.array(value, dtype))

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
        return helper.make_node(op, inputs, [f"{output}_{s}"], **attributes)

    stride = const(f"stride_{s}", float(s), np.float32)
    return [
        *grid(graph, grid_source, s),
        # Boxes.
        helper.make_node("Split", [f"bbox_{s}"], [f"offset_{s}", f"log_size_{s}"], axis=2, split=[2, 2]),
        node("Add", [f"offset_{s}", f"grid_{s}"], "centre_cells"),
        node("Mul", [f"centre_cells_{s}", stride], "centre"),
        node("Exp", [f"log_size_{s}"], "size_cells"),
        node("Mul", [f"size_cells_{s}", const(f"half_stride_{s}", s / 2, np.float32)], "half_size"),
        node("Sub", [f"centre_{s}", f"half_size_{s}"], "top_left"),
        node("Add", [f"centre_{s}", f"half_size_{s}"], "bottom_right"),
        node("Concat", [f"top_left_{s}", f"bottom_right_{s}"], "boxes", axis=2),
        # Scores.
        node("Mul", [f"cls_{s}", f"obj_{s}"], "cls_obj"),
        node("Sqrt", [f"cls_obj_{s}"], "score_column"),
        node("Squeeze", [f"score_column_{s}"], "scores", axes=[2]),
        # Landmarks.
        node("Reshape", [f"kps_{s}", const("five_points", [0, -1, 5, 2], np.int64)], "points"),
        node("Unsqueeze", [f"grid_{s}"], "grid_points", axes=[2]),
        node("Add", [f"points_{s}", f"grid_points_{s}"], "points_cells"),
        node("Mul", [f"points_cells_{s}", stride], "landmarks"),
    ]
