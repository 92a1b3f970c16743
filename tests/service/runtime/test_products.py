"""Integer products against numpy's, where processors that add in 16 bits would saturate."""

import base64

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.runtime.products import GRAPH, LARGEST_RIGHT, ZERO, integer_products


@pytest.mark.parametrize(("n", "d", "q"), [(1, 1, 1), (3, 7, 5), (64, 512, 1), (200, 512, 64), (129, 1024, 17)])
def test_products_are_exact(n, d, q):
    rng = np.random.default_rng(n)
    left = rng.integers(0, 256, (n, d)).astype(np.uint8)
    right = rng.integers(-LARGEST_RIGHT, LARGEST_RIGHT + 1, (d, q)).astype(np.int8)
    assert np.array_equal(integer_products(left, right), (left.astype(np.int64) - 128) @ right)


@pytest.mark.parametrize("left", [0, 1, 127, 128, 255])
@pytest.mark.parametrize("right", [-LARGEST_RIGHT, LARGEST_RIGHT])
def test_the_largest_factors_do_not_saturate(left, right):
    products = integer_products(np.full((70, 512), left, np.uint8), np.full((512, 9), right, np.int8))
    assert (products == (left - 128) * right * 512).all()


def test_the_graph_is_one_matrix_product():
    inputs = [
        helper.make_tensor_value_info("left", TensorProto.UINT8, ["n", "d"]),
        helper.make_tensor_value_info("right", TensorProto.INT8, ["d", "q"]),
    ]
    outputs = [helper.make_tensor_value_info("products", TensorProto.INT32, ["n", "q"])]
    zero = numpy_helper.from_array(np.array(ZERO, np.uint8), "zero")
    node = helper.make_node("MatMulInteger", ["left", "right", "zero"], ["products"])
    graph = helper.make_graph([node], "integer_products", inputs, outputs, [zero])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert onnx.load_from_string(base64.b64decode(GRAPH)) == model
