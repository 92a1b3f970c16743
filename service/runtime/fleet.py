"""One pair of networks on each device, behind batchers of its own; work goes to the device that has least of it."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.runtime.batching import NetworkBatches, SharedDetector, SharedEmbedder
from service.runtime.networks import CPU, DetectorNetwork, EmbedderNetwork, Provider, choose_provider

Images = NDArray[np.uint8]
A = TypeVar("A")
Pair = tuple[DetectorNetwork, EmbedderNetwork]


class Loads:
    """How many images each device has, of both networks."""

    def __init__(self, devices: int) -> None:
        self._lock = threading.Lock()
        self._images = [0] * devices
        self._served = [0] * devices

    @contextmanager
    def taken(self, images: int) -> Iterator[int]:
        """The device with the least work has so many images more until the end of the block."""
        with self._lock:
            device = min(range(len(self._images)), key=lambda n: (self._images[n], self._served[n]))
            self._images[device] += images
            self._served[device] += images
        try:
            yield device
        finally:
            with self._lock:
                self._images[device] -= images


class Spread(Generic[A]):
    """The same network on several devices, as one. Thread-safe."""

    def __init__(self, networks: Sequence[Callable[[Images], A]], loads: Loads) -> None:
        self._networks, self._loads = tuple(networks), loads

    def __call__(self, images: Images) -> A:
        """What the network answers, on the device that has least to do."""
        with self._loads.taken(len(images)) as device:
            return self._networks[device](images)


def shared(pairs: Sequence[Pair], limits: NetworkBatches) -> tuple[Callable[[Images], Any], Callable[[Images], Any]]:
    """Detector and embedder of all devices, for many callers."""
    detectors = [SharedDetector(detector, limits.detector) for detector, _ in pairs]
    embedders = [SharedEmbedder(embedder, limits.embedder) for _, embedder in pairs]
    if len(pairs) == 1:
        return detectors[0], embedders[0]
    loads = Loads(len(pairs))
    return Spread(detectors, loads), Spread(embedders, loads)


def devices_for(provider: Provider, gpus: Sequence[int]) -> tuple[int, ...]:
    """Those of ``gpus`` on which networks are to be opened; the first alone stands for the CPU.

    Raises:
        DeviceError: see ``choose_provider``.
    """
    on_gpu = tuple(gpu for gpu in gpus if choose_provider(provider, gpu) != CPU)
    return on_gpu or tuple(gpus[:1])
