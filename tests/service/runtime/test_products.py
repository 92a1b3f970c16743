"""Integer products against numpy's, where processors that add in 16 bits would saturate."""

import numpy as np
import pytest

from service.runtime.products import LARGEST_RIGHT, integer_products


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
