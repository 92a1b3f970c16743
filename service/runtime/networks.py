"""The two networks of a bundle as plain functions on numpy arrays. The only room that imports onnxruntime."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from typing import Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.errors import BundleError, DeviceError
from service.runtime.card import EmbeddingContract
from service.runtime.onnx_file import keeps_data_outside

Provider = Literal["auto", "cpu", "cuda"]

# Keys that export stamps into the ONNX files, so that a card cannot claim what its graph does not do.
METADATA_CONTRACT = "likeness.embedding_contract"
METADATA_FUSION = "likeness.fusion"

_ORT_NAMES = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True)
class RuntimeOptions:
    """How networks are run.

    Attributes:
        provider: ``auto`` takes CUDA where it is available, else the CPU; ``cuda`` refuses to fall back.
        threads: intra-op threads of each network on the CPU; 0 takes one per core this process may use. One is
            the default: the cores are kept busy by several photos at once, while a second thread in a network helps
            only on an otherwise idle machine and, spinning, costs twice its time on a busy one.
    """

    provider: Provider = "auto"
    threads: int = 1


class DetectorNetwork:
    """Detector: any batch of equally sized images."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self.provider: str = session.get_providers()[0]

    def __call__(
        self, images: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Detect on uint8 RGB ``images`` (n, h, w, 3), h and w multiples of 32.

        Returns:
            boxes float32 (n, a, 4) as x1, y1, x2, y2 in pixels of the input, scores (n, a) in 0..1 and
            landmarks (n, a, 5, 2) in pixels; every anchor is there, nothing is suppressed.
        """
        boxes, scores, landmarks = self._session.run(["boxes", "scores", "landmarks"], {"images": images})
        return boxes, scores, landmarks


class EmbedderNetwork:
    """Embedder: any batch of aligned crops."""

    def __init__(self, session: ort.InferenceSession, dimension: int) -> None:
        self._session = session
        self.dimension = dimension
        self.provider: str = session.get_providers()[0]

    def __call__(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Embed uint8 RGB ``crops`` (n, 112, 112, 3).

        Returns:
            embeddings float32 (n, d) of unit length, and feature_norm float32 (n,), the length before
            normalisation, low for poor images.
        """
        embeddings, norms = self._session.run(["embedding", "feature_norm"], {"crops": crops})
        return embeddings, norms


def open_networks(
    detector_model: bytes, embedder_model: bytes, contract: EmbeddingContract, options: RuntimeOptions
) -> tuple[DetectorNetwork, EmbedderNetwork]:
    """Load a bundle's two ONNX files and check that they do what the contract says.

    Raises:
        BundleError: inputs, outputs, dimension, fusion or contract differ from what is claimed.
        DeviceError: the provider asked for is not available, or not the one that would run.
    """
    provider = choose_provider(options.provider)
    detector = _open(detector_model, "detector", provider, options.threads)
    embedder = _open(embedder_model, "embedder", provider, options.threads)
    _expect(detector, "detector", ["images"], ["boxes", "scores", "landmarks"])
    _expect(embedder, "embedder", ["crops"], ["embedding", "feature_norm"])
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
    return DetectorNetwork(detector), EmbedderNetwork(embedder, contract.dimension)


def open_session(model: bytes, options: RuntimeOptions) -> ort.InferenceSession:
    """A network as the service would run it, unchecked: for measurements while a bundle is being made.

    Raises:
        BundleError: ONNX Runtime cannot load it.
        DeviceError: the provider asked for is not available, or not the one that would run.
    """
    return _open(model, "network", choose_provider(options.provider), options.threads)


def choose_provider(wanted: Provider) -> str:
    """The ONNX Runtime execution provider to use.

    Raises:
        DeviceError: ``cuda`` is wanted and this installation has no CUDA provider, or two ONNX Runtimes are installed
            over each other.
    """
    rivals = [name for name in ("onnxruntime", "onnxruntime-gpu") if list(distributions(name=name))]
    if len(rivals) > 1:
        raise DeviceError(
            "onnxruntime and onnxruntime-gpu are both installed; they own the same module, and one has overwritten the "
            "other. Make the environment anew with one of the two: make clean, then make setup DEVICE=cpu or gpu.",
            {"installed": rivals},
        )
    available = ort.get_available_providers()
    if wanted == "auto":
        wanted = "cuda" if _ORT_NAMES["cuda"] in available else "cpu"
    name = _ORT_NAMES[wanted]
    if name not in available:
        raise DeviceError(
            f"Provider {wanted!r} was asked for, but this installation of ONNX Runtime offers only "
            f"{', '.join(available)}. Install the GPU set (make setup DEVICE=gpu) or ask for 'cpu'.",
            {"available": available},
        )
    return name


def _open(model: bytes, role: str, provider: str, threads: int) -> ort.InferenceSession:
    if provider == _ORT_NAMES["cuda"]:
        # The CUDA libraries come as Python wheels, where the dynamic loader does not look by itself.
        ort.preload_dlls()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or available_cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        if keeps_data_outside(model):
            raise BundleError(f"The {role} keeps data outside its file; one self-contained file is needed.")
        protobuf = True
    except ValueError:
        protobuf = False  # what is wrong with it, ONNX Runtime says better
    try:
        session = ort.InferenceSession(model, options, providers=[provider])
    except Exception as error:  # ONNX Runtime raises a private exception class per status code
        raise BundleError(f"The {role} cannot be loaded by ONNX Runtime: {error}") from error
    if not protobuf:
        raise BundleError(f"The {role} is not a valid ONNX file.")
    # ONNX Runtime falls back to the CPU with no more than a log line when a CUDA library is missing.
    running = session.get_providers()[0]
    if running != provider:
        raise DeviceError(f"The {role} was to run on {provider}, but ONNX Runtime would run it on {running}.")
    return session


def _expect(session: ort.InferenceSession, role: str, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    found = [i.name for i in session.get_inputs()], [o.name for o in session.get_outputs()]
    if found != (list(inputs), list(outputs)):
        raise BundleError(f"The {role} has inputs and outputs {found}, expected {(list(inputs), list(outputs))}.")


def available_cores() -> int:
    """Cores this process may run on, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0))
