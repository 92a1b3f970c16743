"""The vector indexes against float64, across the edges of their blocks.

The GPU's index runs here on FAISS's own float16 rows on the CPU; where there is a GPU, on that too.
"""

from functools import partial

import faiss
import numpy as np
import pytest

from service.errors import DeviceError
from service.gallery import flat_index, gpu_index
from service.gallery.flat_index import FlatIndex
from service.gallery.gpu_index import GpuIndex
from service.gallery.index import gpus, make_index, search_device

BLOCK = 128


def half_on_cpu(dimension):
    return faiss.IndexScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)


FORMS = [
    pytest.param(FlatIndex, id="cpu"),
    pytest.param(partial(GpuIndex, new_block=half_on_cpu), id="gpu-logic"),
    pytest.param(GpuIndex, id="gpu", marks=pytest.mark.skipif(not gpus(), reason="FAISS finds no GPU")),
]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(flat_index, "BLOCK_ROWS", BLOCK)
    monkeypatch.setattr(flat_index, "GATHER_ROWS", 64)
    monkeypatch.setattr(flat_index, "LARGEST_BATCH", 50)
    monkeypatch.setattr(gpu_index, "BLOCK_ROWS", BLOCK)


@pytest.fixture(params=FORMS)
def new_index(request):
    return request.param


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def gaussian(rng, n, dimension):
    return unit(rng.standard_normal((n, dimension)))


def spiky(rng, n, dimension):
    """Rows with one component near 1, which leave 8 bits no room for the others, among ordinary ones."""
    vectors = gaussian(rng, n, dimension)
    vectors[::3, 0] += 20
    return unit(vectors)


def alike(rng, n, dimension):
    """Rows closer to each other than any rounding."""
    return unit(rng.standard_normal(dimension) + 1e-4 * rng.standard_normal((n, dimension)))


def exact_products(probes, vectors):
    return probes.astype(np.float64) @ vectors.astype(np.float64).T


@pytest.mark.parametrize("data", [gaussian, spiky, alike])
@pytest.mark.parametrize("probes", [1, 5, 6, 65])
@pytest.mark.parametrize("dimension", [8, 32, 512])
def test_no_row_that_was_left_out_is_better_than_what_is_said_to_be_missed(new_index, data, probes, dimension):
    rng = np.random.default_rng(dimension + probes)
    vectors = data(rng, 3 * BLOCK + 37, dimension)
    asked = unit(vectors[rng.integers(0, len(vectors), probes)] + 0.5 * gaussian(rng, probes, dimension))
    index = new_index(dimension)
    for part in np.split(vectors, [1, BLOCK - 1, BLOCK + 1, 3 * BLOCK]):
        index.add(part)
    assert len(index) == len(vectors)
    exact = exact_products(asked, vectors)
    for k in (1, 20, 150, len(vectors), 1000):
        best = index.search(asked, k)
        assert len(best.rows) == len(best.missed) == probes
        for products, rows, missed in zip(exact, best.rows, best.missed, strict=True):
            assert len(set(rows.tolist())) == len(rows)
            left_out = np.delete(products, rows)
            assert not len(left_out) or left_out.max() <= missed
            # Useful, too: about as many as were asked for, and as good as the roughest scan allows.
            assert data is not gaussian or len(rows) >= min(k, len(vectors)) * 0.9 - 1
            assert k >= len(vectors) or np.sort(products)[-k] >= missed - 0.2


def test_ordinary_rows_are_told_apart_to_the_last_one(new_index):
    rng = np.random.default_rng(8)
    vectors = gaussian(rng, 1000, 512)
    index = new_index(512)
    index.add(vectors)
    for probes in (1, 40):
        asked = unit(vectors[:probes] + 0.5 * gaussian(rng, probes, 512))
        best = index.search(asked, 32)
        exact = exact_products(asked, vectors)
        for products, rows, missed in zip(exact, best.rows, best.missed, strict=True):
            first = np.argsort(-products)[:5]
            assert set(first.tolist()) <= set(rows.tolist())
            assert products[first[0]] > missed


def test_scores_and_vectors_of_chosen_rows(new_index):
    rng = np.random.default_rng(2)
    vectors, asked = gaussian(rng, 357, 32), gaussian(rng, 3, 32)
    index = new_index(32)
    index.add(vectors)
    rows = rng.permutation(357)[:200]
    assert np.array_equal(index.vectors(rows), vectors[rows])
    exact = exact_products(asked, vectors)
    assert np.allclose(index.scores(asked, rows), exact[:, rows], atol=index.score_error, rtol=0)
    assert np.allclose(index.scores(asked, None), exact, atol=index.score_error, rtol=0)
    assert index.scores(asked, rows[:0]).shape == (3, 0)


@pytest.mark.parametrize("probes", [1, 2, 7])
def test_erased_rows_are_zeros_in_every_copy(new_index, probes):
    rng = np.random.default_rng(3)
    vectors = gaussian(rng, 250, 32)
    index = new_index(32)
    index.add(vectors)
    rows = np.array([0, 99, 127, 128, 249])
    index.erase(rows)
    zeroed = vectors.copy()
    zeroed[rows] = 0
    assert np.array_equal(index.vectors(np.arange(250)), zeroed)
    assert not index.scores(gaussian(rng, 2, 32), rows).any()
    # If a copy still had them, a probe that equals one would find it first.
    for row in rows:
        for found in index.search(np.repeat(vectors[[row]], probes, axis=0), 1).rows:
            assert row not in found.tolist()


def test_the_8_bit_copy_has_no_trace_of_an_erased_row():
    rng = np.random.default_rng(4)
    index = FlatIndex(32)
    index.add(gaussian(rng, BLOCK, 32))
    [block] = index._blocks
    assert (block._code_bytes[5] != 128).any()
    index.erase(np.array([5]))
    assert (block._code_bytes[5] == 128).all()


def test_an_empty_index_answers(new_index):
    index = new_index(8)
    assert len(index) == 0
    for probes in (1, 3):
        best = index.search(np.ones((probes, 8), np.float32), 5)
        assert [rows.tolist() for rows in best.rows] == [[]] * probes
        assert np.isneginf(best.missed).all()
        assert index.scores(np.ones((probes, 8), np.float32), None).shape == (probes, 0)


def test_rows_of_zeros_only(new_index):
    index = new_index(8)
    index.add(np.zeros((2 * BLOCK, 8), np.float32))
    best = index.search(np.eye(1, 8, dtype=np.float32), 3)
    assert len(best.rows[0]) >= 3
    assert best.missed[0] >= 0


DEVICES = ["cuda", "cuda:0", "cuda:99", "cuda:", "cuda:-1", "cuda:01", "cuda:x", "tpu", "tpu:0"]


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_without_an_index_is_refused(device):
    if device in ("cuda", "cuda:0") and gpus():
        pytest.skip("there is a GPU")
    with pytest.raises(DeviceError, match=device):
        make_index(8, device)


@pytest.mark.parametrize(
    ("provider", "gpu", "device"),
    [
        ("cpu", 0, "cpu"),
        ("cpu", 3, "cpu"),
        ("cuda", 0, "cuda"),
        ("tensorrt", 0, "cuda"),
        ("cuda", 3, "cuda:3"),
        ("auto", 99, "cpu"),
    ],
)
def test_searches_run_where_the_networks_run(provider, gpu, device):
    assert search_device(provider, gpu) == device


def test_auto_searches_on_the_cpu_where_faiss_finds_no_gpu():
    assert search_device("auto") == ("cuda" if gpus() else "cpu")
