"""Several devices: here each is a pair of sessions on the CPU, and all but the device is what a GPU would have."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from service.runtime.batcher import BatchLimits
from service.runtime.batching import NetworkBatches
from service.runtime.bundle import Bundle
from service.runtime.fleet import Loads, Spread, devices_for, shared
from service.runtime.networks import RuntimeOptions, open_networks
from service.settings import read_settings
from tests.service.runtime.test_device_buffers import photos

WAIT_S = 10.0
Images = NDArray[np.uint8]


class Held:
    """A network that answers its own number, when it is let."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.let = threading.Semaphore(0)
        self.asked = threading.Semaphore(0)

    def __call__(self, _: Images) -> int:
        self.asked.release()
        if not self.let.acquire(timeout=WAIT_S):
            raise TimeoutError("nobody let it")
        return self.number


def asked(network: Held) -> None:
    assert network.asked.acquire(timeout=WAIT_S)


def test_work_goes_to_the_device_that_has_least_of_it() -> None:
    slow, quick = Held(0), Held(1)
    spread = Spread([slow, quick], Loads(2))
    image = np.zeros((1, 8, 8, 3), np.uint8)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(spread, np.repeat(image, 3, axis=0))
        asked(slow)
        for _ in range(3):
            # One image beside three, two beside three: the other device still has less.
            quick.let.release()
            assert pool.submit(spread, image).result() == 1
        slow.let.release()
        assert first.result() == 0


def test_a_device_is_free_again_after_an_error() -> None:
    def failing(_: Images) -> int:
        raise ValueError("the device failed")

    working: Callable[[Images], int] = len
    image = np.zeros((1, 8, 8, 3), np.uint8)
    spread = Spread([failing, working], Loads(2))
    with pytest.raises(ValueError, match="the device failed"):
        spread(image)
    assert spread(image) == 1
    # Both are idle, and the one that failed has served no more than the other.
    with pytest.raises(ValueError, match="the device failed"):
        spread(image)


def test_pairs_of_networks_on_several_devices_answer_as_one(bundle: Bundle) -> None:
    files = bundle.detector, bundle.embedder, bundle.card.contract
    pairs = [open_networks(*files, RuntimeOptions("cpu")) for _ in range(2)]
    detector, embedder = shared(pairs, NetworkBatches(BatchLimits(4), BatchLimits(4)))
    views, crops = photos(6, (1, 64, 64, 3)), photos(6, (2, 112, 112, 3))
    with ThreadPoolExecutor(6) as pool:
        seen, embedded = list(pool.map(detector, views)), list(pool.map(embedder, crops))
    for view, (_, scores, _) in zip(views, seen, strict=True):
        np.testing.assert_allclose(scores, pairs[0][0](view)[1], atol=1e-5)
    for crop, (embeddings, _) in zip(crops, embedded, strict=True):
        np.testing.assert_allclose(embeddings, pairs[0][1](crop)[0], atol=1e-5)


def test_the_cpu_is_one_device_however_many_gpus_are_named() -> None:
    assert devices_for("cpu", (3, 4)) == (3,)
    assert len(shared([("detector", "embedder")], NetworkBatches(BatchLimits(), BatchLimits()))) == 2  # type: ignore[list-item]


@pytest.mark.parametrize(("given", "gpus"), [(0, (0,)), ("1", (1,)), ("0,2,0", (0, 2))])
def test_gpus_are_named_in_one_setting(given: object, gpus: tuple[int, ...]) -> None:
    assert read_settings(gpu=given).gpus == gpus


@pytest.mark.parametrize("given", ["", "a", "0,", "-1", "0;1"])
def test_what_names_no_gpu_is_refused(given: str) -> None:
    with pytest.raises(Exception, match="Setting 'gpu'"):
        read_settings(gpu=given)
