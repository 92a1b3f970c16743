"""What detectors have in common when their graphs decode their own anchors: the grid of cells, and the outputs."""

from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper

from export import graph as g

# With n images and a anchors: boxes as x1, y1, x2, y2 and landmarks as x, y in pixels of the input, scores in 0..1.
BOXES_SCORES_LANDMARKS = (
    helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["n", "a", 4]),
    helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", "a"]),
    helper.make_tensor_value_info("landmarks", TensorProto.FLOAT, ["n", "a", 5, 2]),
)


def grid(graph: GraphProto, grid_source: str, s: int) -> list[NodeProto]:
    """Nodes for stride ``s`` from a map (n, rows, columns, k) to ``grid_{s}``, float32 (1, rows·columns, 2).

    Those are the cells' columns and rows, (x, y), row by row.
    """

    def const(name: str, value: object) -> str:
        return g.set_weight(graph, f"decode/{name}", np.array(value, np.int64))

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
        return helper.make_node(op, inputs, [f"{output}_{s}"], **attributes)

    zero, one = const("zero", 0), const("one", 1)
    return [
        node("Shape", [grid_source], "map_shape"),
        node("Gather", [f"map_shape_{s}", const("row_axis", 1)], "rows", axis=0),
        node("Gather", [f"map_shape_{s}", const("column_axis", 2)], "columns", axis=0),
        node("Range", [zero, f"rows_{s}", one], "row_numbers"),
        node("Range", [zero, f"columns_{s}", one], "column_numbers"),
        node("Unsqueeze", [f"row_numbers_{s}"], "row_vector", axes=[1]),
        node("Unsqueeze", [f"column_numbers_{s}"], "column_vector", axes=[0]),
        node("Mul", [f"row_vector_{s}", zero], "row_zeros"),
        node("Mul", [f"column_vector_{s}", zero], "column_zeros"),
        node("Add", [f"row_vector_{s}", f"column_zeros_{s}"], "grid_y"),
        node("Add", [f"column_vector_{s}", f"row_zeros_{s}"], "grid_x"),
        node("Unsqueeze", [f"grid_x_{s}"], "grid_x3", axes=[2]),
        node("Unsqueeze", [f"grid_y_{s}"], "grid_y3", axes=[2]),
        node("Concat", [f"grid_x3_{s}", f"grid_y3_{s}"], "grid_xy", axis=2),
        node("Reshape", [f"grid_xy_{s}", const("flat_grid", [1, -1, 2])], "grid_cells"),
        node("Cast", [f"grid_cells_{s}"], "grid", to=TensorProto.FLOAT),
    ]
