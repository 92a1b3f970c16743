"""Integer matrix products. ONNX Runtime has the processor's 8-bit instructions for them; numpy's BLAS has none."""

import base64
from functools import cache

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

# With one factor of 8 bits and the other within this, no processor's product saturates: those without VNNI add two
# products in 16 bits, 2·255·63 < 2**15.
LARGEST_RIGHT = 63
# What stands for 0 in the left factor.
ZERO = 128
# One MatMulInteger with ``ZERO`` inside; the tests build it with the package ``onnx``, which the service goes without.
GRAPH = (
    "CAg6oAEKLAoEbGVmdAoFcmlnaHQKBHplcm8SCHByb2R1Y3RzIg1NYXRNdWxJbnRlZ2VyEhBpbnRlZ2VyX3Byb2R1Y3RzKgsQAkIE"
    "emVyb0oBgFoYCgRsZWZ0EhAKDggCEgoKAxIBbgoDEgFkWhkKBXJpZ2h0EhAKDggDEgoKAxIBZAoDEgFxYhwKCHByb2R1Y3RzEhAK"
    "DggGEgoKAxIBbgoDEgFxQgQKABAR"
)


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
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # A block's products would otherwise stay in ONNX Runtime's own arena.
    options.enable_cpu_mem_arena = False
    return ort.InferenceSession(base64.b64decode(GRAPH), options, providers=["CPUExecutionProvider"])
