"""Integer matrix products. ONNX Runtime has the processor's 8-bit instructions for them; numpy's BLAS has none."""

from functools import cache

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

# With one factor of 8 bits and the other within this, no processor's product saturates: those without VNNI add two
# products in 16 bits, 2·255·63 < 2**15.
LARGEST_RIGHT = 63
# What stands for 0 in the left factor.
ZERO = 128


def integer_products(left: NDArray[np.uint8], right: NDArray[np.int8]) -> NDArray[np.int32]:
    """(left - 128) @ right, exactly, on the calling thread.

    Args:
        left: uint8 (n, d), contiguous.
        right: int8 (d, q), -63 to 63.

    Returns:
        int32 (n, q).
    """
    products: NDArray[np.int32] = _session().run(None, {"left": left, "right": right})[0]
    return products


@cache
def _session() -> ort.InferenceSession:
    inputs = [
        helper.make_tensor_value_info("left", TensorProto.UINT8, ["n", "d"]),
        helper.make_tensor_value_info("right", TensorProto.INT8, ["d", "q"]),
    ]
    outputs = [helper.make_tensor_value_info("products", TensorProto.INT32, ["n", "q"])]
    zero = numpy_helper.from_array(np.array(ZERO, np.uint8), "zero")
    node = helper.make_node("MatMulInteger", ["left", "right", "zero"], ["products"])
    graph = helper.make_graph([node], "integer_products", inputs, outputs, [zero])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # A block's products would otherwise stay in ONNX Runtime's own arena.
    options.enable_cpu_mem_arena = False
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
