"""What only a GPU can show. Skipped where there is none, and not run yet."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from service.engine import load_engine
from service.recognition.recognizer import Recognizer
from service.runtime.bundle import Bundle
from service.runtime.device_buffers import BoundSession, Device
from service.runtime.networks import (
    EMBEDDER_GRAPHS,
    EMBEDDER_OUTPUTS,
    RuntimeOptions,
    _embedder_shapes,
    open_networks,
)
from service.runtime.pinned import page_locked
from service.runtime.providers import CUDA, gpu_name, prepare
from service.runtime.sessions import open_session
from service.settings import Settings
from tests.service.runtime.test_device_buffers import photos


def gpus() -> int:
    found = 0
    try:
        while CUDA in ort.get_available_providers():
            gpu_name(found)
            found += 1
    except Exception:
        return found
    return found


pytestmark = pytest.mark.skipif(gpus() == 0, reason="no GPU, or not the GPU set of packages")


def on_cuda(bundle: Bundle, options: RuntimeOptions) -> BoundSession:
    prepare(CUDA, options.gpu)
    session = open_session(bundle.embedder, "embedder", CUDA, options, _embedder_shapes(112))
    return BoundSession(session, EMBEDDER_OUTPUTS, Device("cuda", options.gpu), EMBEDDER_GRAPHS)


def used_mib(gpu: int) -> float:
    import ctypes

    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    runtime = ctypes.CDLL("libcudart.so.12")
    assert runtime.cudaSetDevice(gpu) == 0
    assert runtime.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)) == 0
    return (total.value - free.value) / 2**20


def test_captured_runs_answer_as_the_cpu_does(bundle: Bundle) -> None:
    bound = on_cuda(bundle, RuntimeOptions("cuda", graphs=True))
    on_cpu = open_networks(bundle.detector, bundle.embedder, bundle.card.contract, RuntimeOptions("cpu"))[1]
    for count in (1, 3, 3, 2, 1, 30, 30):
        [crops] = photos(1, (count, 112, 112, 3))
        embeddings, norms = bound(crops)
        expected = on_cpu(crops)
        assert (np.sum(embeddings * expected[0], axis=1) > 0.99999).all()
        np.testing.assert_allclose(norms, expected[1], rtol=1e-3)
    assert bound.graphs == [(n, 112, 112, 3) for n in (1, 4, 2, 32)]


def test_plain_and_captured_runs_are_the_same(bundle: Bundle) -> None:
    plain, captured = (on_cuda(bundle, RuntimeOptions("cuda", graphs=graphs)) for graphs in (False, True))
    plain._captured = None
    for crops in photos(5, (4, 112, 112, 3)):
        np.testing.assert_allclose(captured(crops)[0], plain(crops)[0], atol=1e-5)


def test_memory_stays_within_the_ceiling_and_does_not_grow(bundle: Bundle) -> None:
    before = used_mib(0)
    options = RuntimeOptions("cuda", gpu_memory_mib=2048, graphs=True)
    detector, embedder = open_networks(bundle.detector, bundle.embedder, bundle.card.contract, options)
    rng, seen = np.random.default_rng(0), []
    for _ in range(40):
        height, width = (32 * int(n) for n in rng.integers(4, 40, 2))
        detector(photos(1, (int(rng.integers(1, 9)), height, width, 3))[0])
        embedder(photos(1, (int(rng.integers(1, 65)), 112, 112, 3))[0])
        seen.append(used_mib(0) - before)
    # The context and the kernels come on top of the arenas, and the buffers of inputs.
    assert max(seen) < 2048 + 1024 + 2 * 128
    assert seen[-1] <= max(seen[:30]) * 1.05


def test_memory_is_locked(bundle: Bundle) -> None:  # noqa: ARG001
    prepare(CUDA, 0)
    ort.OrtValue.ortvalue_from_shape_and_type((1,), np.uint8, "cuda", 0)
    for _ in range(3):
        stage = page_locked((8, 112, 112, 3), 0)
        assert stage is not None
        stage[:] = 7
        buffer = ort.OrtValue.ortvalue_from_shape_and_type(stage.shape, np.uint8, "cuda", 0)
        buffer.update_inplace(stage)
        assert (buffer.numpy() == 7).all()
        # The same memory can be locked again.
        del stage


@pytest.mark.skipif(gpus() < 2, reason="there is one GPU")
def test_two_gpus_work_as_one(data_dir: Path, recognizer: Recognizer, group_photo: bytes) -> None:
    engine = load_engine(Settings(data_dir=data_dir, provider="cuda", gpu="0,1"))
    photo = engine.recognizer.decode(group_photo)
    here, there = recognizer.detect(photo), engine.recognizer.detect(photo)
    assert len(here) == len(there)
    for a, b in zip(here, there, strict=True):
        assert np.abs(a.box - b.box).max() < 1
