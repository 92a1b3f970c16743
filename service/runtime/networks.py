"""The two networks of a bundle as plain functions on numpy arrays."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.cores import available_cores
from service.errors import BundleError, DeviceError
from service.runtime.card import EmbeddingContract
from service.runtime.device_buffers import BoundSession, Captured, Device
from service.runtime.providers import CPU, CUDA, Provider, RuntimeOptions, Shapes, prepare
from service.runtime.sessions import choose_provider, computing_provider, open_session

__all__ = [
    "CPU",
    "METADATA_CONTRACT",
    "METADATA_FUSION",
    "DetectorNetwork",
    "EmbedderNetwork",
    "Provider",
    "RuntimeOptions",
    "available_cores",
    "choose_provider",
    "open_embedder_session",
    "open_networks",
]

# Keys that export stamps into the ONNX files, so that a card cannot claim what its graph does not do.
METADATA_CONTRACT = "likeness.embedding_contract"
METADATA_FUSION = "likeness.fusion"

DETECTOR_OUTPUTS = ("boxes", "scores", "landmarks")
EMBEDDER_OUTPUTS = ("embedding", "feature_norm")
# On a GPU larger batches are run in parts: this bounds its memory, and TensorRT builds for a largest shape. Tiles of
# the detector are at most 1280 pixels wide and high.
DETECTOR_SHAPES = Shapes("images", (1, 32, 32, 3), (1, 640, 640, 3), (8, 1280, 1280, 3))
LARGEST_GPU_EMBEDDING_BATCH = 64
# The detector's windows and views of one size; of whole photos hardly two have the same.
DETECTOR_GRAPHS = Captured((1, 2, 4, 8), 384)
EMBEDDER_GRAPHS = Captured((1, 2, 4, 8, 16, 32, LARGEST_GPU_EMBEDDING_BATCH), 384)

log = logging.getLogger(__name__)

Run: TypeAlias = Callable[[NDArray[np.uint8]], list[NDArray[Any]]]


class DetectorNetwork:
    """Detector: any batch of equally sized images."""

    def __init__(self, run: Run, provider: str) -> None:
        """``provider``: what was found to compute it."""
        self._run = run
        self.provider = provider

    def __call__(
        self, images: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Detect on uint8 RGB ``images`` (n, h, w, 3), h and w multiples of 32.

        Returns:
            boxes float32 (n, a, 4) as x1, y1, x2, y2 in pixels of the input, scores (n, a) in 0..1 and
            landmarks (n, a, 5, 2) in pixels; every anchor is there, nothing is suppressed.
        """
        boxes, scores, landmarks = self._run(images)
        return boxes, scores, landmarks


class EmbedderNetwork:
    """Embedder: any batch of aligned crops."""

    def __init__(self, run: Run, provider: str, dimension: int) -> None:
        """``provider``: what was found to compute it."""
        self._run = run
        self.provider = provider
        self.dimension = dimension

    def __call__(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Embed uint8 RGB ``crops`` (n, 112, 112, 3).

        Returns:
            embeddings float32 (n, d) of unit length, and feature_norm float32 (n,), the length before
            normalisation, low for poor images.
        """
        embeddings, norms = self._run(crops)
        return embeddings, norms


def open_networks(
    detector_model: bytes, embedder_model: bytes, contract: EmbeddingContract, options: RuntimeOptions
) -> tuple[DetectorNetwork, EmbedderNetwork]:
    """Load a bundle's two ONNX files, check that they do what the contract says, and where they run.

    Raises:
        BundleError: inputs, outputs, dimension, fusion or contract differ from what is claimed.
        DeviceError: the provider asked for is not available, or not the one that computes.
    """
    provider = choose_provider(options.provider, options.gpu)
    prepare(provider, options.gpu)
    shapes = DETECTOR_SHAPES, _embedder_shapes(contract.alignment.size)
    with ExitStack() as stack:
        # On the CPU there is nothing to find out: no other provider is offered to those sessions.
        profile = None if provider == CPU else _folder(stack)
        detector, detector_graphs = _open(detector_model, "detector", provider, options, shapes[0], profile)
        embedder, embedder_graphs = _open(embedder_model, "embedder", provider, options, shapes[1], profile)
        _expect(detector, "detector", [shapes[0].name], DETECTOR_OUTPUTS)
        _expect(embedder, "embedder", [shapes[1].name], EMBEDDER_OUTPUTS)
        _expect_contract(embedder, contract)
        found = provider, provider
        if profile is not None:
            found = (
                computing_provider(detector, "detector", provider, shapes[0]),
                computing_provider(embedder, "embedder", provider, shapes[1]),
            )
    if provider == CPU:
        return (
            DetectorNetwork(_plain(detector, DETECTOR_OUTPUTS), found[0]),
            EmbedderNetwork(_plain(embedder, EMBEDDER_OUTPUTS), found[1], contract.dimension),
        )
    gpu = Device("cuda", options.gpu)
    bound = (
        BoundSession(detector, DETECTOR_OUTPUTS, gpu, DETECTOR_GRAPHS if detector_graphs else None),
        BoundSession(embedder, EMBEDDER_OUTPUTS, gpu, EMBEDDER_GRAPHS if embedder_graphs else None),
    )
    return (
        DetectorNetwork(in_parts(bound[0], shapes[0].largest[0]), found[0]),
        EmbedderNetwork(in_parts(bound[1], shapes[1].largest[0]), found[1], contract.dimension),
    )


def open_embedder_session(model: bytes, size: int, options: RuntimeOptions) -> ort.InferenceSession:
    """An embedder of crops of ``size`` pixels as the service would run it, unchecked: for measurements while a bundle
    is being made.

    Raises:
        BundleError: ONNX Runtime cannot load it.
        DeviceError: the provider asked for is not available.
    """
    provider = choose_provider(options.provider, options.gpu)
    prepare(provider, options.gpu)
    return open_session(model, "embedder", provider, options, _embedder_shapes(size))


def in_parts(run: Run, most: int) -> Run:
    """``run`` for batches of any size, at most ``most`` at a time."""

    def run_parts(images: NDArray[np.uint8]) -> list[NDArray[Any]]:
        if len(images) <= most:
            return run(images)
        parts = [run(images[start : start + most]) for start in range(0, len(images), most)]
        return [np.concatenate(output) for output in zip(*parts, strict=True)]

    return run_parts


def _open(
    model: bytes, role: str, provider: str, options: RuntimeOptions, shapes: Shapes, profile: Path | None
) -> tuple[ort.InferenceSession, bool]:
    """A session, and whether it can capture CUDA graphs. ONNX Runtime refuses to open one that it cannot capture."""
    if provider == CUDA and options.graphs:
        try:
            return open_session(model, role, provider, options, shapes, profile), True
        except DeviceError as error:
            log.warning("The %s is run without CUDA graphs: %s", role, error.message)
    return open_session(model, role, provider, replace(options, graphs=False), shapes, profile), False


def _plain(session: ort.InferenceSession, outputs: Sequence[str]) -> Run:
    name = session.get_inputs()[0].name
    return lambda images: list(session.run(outputs, {name: images}))


def _embedder_shapes(size: int) -> Shapes:
    crop = (size, size, 3)
    return Shapes("crops", (1, *crop), (8, *crop), (LARGEST_GPU_EMBEDDING_BATCH, *crop))


def _folder(stack: ExitStack) -> Path:
    try:
        return Path(stack.enter_context(TemporaryDirectory(prefix="likeness-")))
    except OSError as error:
        raise DeviceError(
            f"Where the networks run cannot be checked without a folder for temporary files: {error}."
        ) from error


def _expect_contract(embedder: ort.InferenceSession, contract: EmbeddingContract) -> None:
    stamped = embedder.get_modelmeta().custom_metadata_map
    for key, claimed in {METADATA_CONTRACT: contract.digest(), METADATA_FUSION: contract.fusion}.items():
        if stamped.get(key) != claimed:
            raise BundleError(f"The card says {key} = {claimed}, the network says {stamped.get(key)!r}.")
    size = contract.alignment.size
    inside = embedder.get_inputs()[0].shape[1:], embedder.get_outputs()[0].shape[-1]
    if inside != ([size, size, 3], contract.dimension):
        raise BundleError(
            f"The card says crops of {size}×{size} and dimension {contract.dimension}, "
            f"the network takes {inside[0]} and gives {inside[1]}."
        )


def _expect(session: ort.InferenceSession, role: str, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    found = [i.name for i in session.get_inputs()], [o.name for o in session.get_outputs()]
    if found != (list(inputs), list(outputs)):
        raise BundleError(f"The {role} has inputs and outputs {found}, expected {(list(inputs), list(outputs))}.")
