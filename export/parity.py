"""The gate every bundle passes: the same real faces through the published files and through the adopted ones.

The published side is run the slow, obvious way: one crop at a time, mirrored with numpy, fused, normalised and
projected in float64; anchors decoded by numpy (``export.published``). Past a limit there is no bundle.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from insightface.data import get_image
from numpy.typing import NDArray

from export.projection import Projection
from export.published import Detections, Features
from service.errors import BundleError
from service.recognition.recognizer import Recognizer
from service.recognition.types import Detector, Embedder, Image
from service.runtime.card import EmbeddingContract, Parity, Precision, ProviderParity

MAX_DETECTOR_PX = 0.05
MAX_DETECTOR_SCORE = 1e-4


@dataclass(frozen=True)
class Limits:
    """What an embedder may differ by from what it was made of.

    Attributes:
        min_cosine: of a crop's embedding before and after.
        max_batch_deviation: of one component, between a batch and single crops.
        max_accuracy_drop: on labelled pairs, as a share of them.
    """

    min_cosine: float
    max_batch_deviation: float
    max_accuracy_drop: float


EXACT = Limits(min_cosine=0.99999, max_batch_deviation=1e-5, max_accuracy_drop=0.001)
# A rounding that goes the other way in a batch is one step of a quantised value.
LIMITS: Mapping[Precision, Limits] = MappingProxyType(
    {
        "float32": EXACT,
        "float16": Limits(0.9999, 1e-3, 0.001),
        "int8-weights": Limits(0.999, 1e-4, 0.002),
        "int8": Limits(0.99, 1e-2, 0.002),
    }
)
# On a GPU the sums are in another order, and which algorithm runs may hang on the batch.
MIN_COSINE_ON_GPU, MAX_BATCH_DEVIATION_ON_GPU = 0.9999, 1e-3

# A group photo that comes with insightface: six people, so there are real crops on every machine.
GROUP_PHOTO = "t1"
_SIDE = 640  # of the square that published detectors are given; YuNet takes no other


@dataclass(frozen=True)
class Closeness:
    """How close an embedder is to another: see the fields of ``Parity``."""

    crops: int
    min_cosine: float
    max_abs_deviation: float
    max_batch_deviation: float

    def require(self, limits: Limits, where: str = "") -> None:
        """Raises BundleError past a limit. Compared so that a NaN, which is no number to hold against one, fails."""
        require(f"the cosine to the published embedder{where}", self.min_cosine, limits.min_cosine, at_least=True)
        batch = f"the difference between a batch and single crops{where}"
        require(batch, self.max_batch_deviation, limits.max_batch_deviation)


def measure_parity(
    published: tuple[Detections, Features],
    detector: Detector,
    embedder: Embedder,
    contract: EmbeddingContract,
    projection: Projection | None = None,
    gpu: Embedder | None = None,
) -> Parity:
    """Compare an adopted detector and embedder with what they were made from.

    Args:
        published: detector and embedder as they were before.
        detector, embedder: the adopted networks, as the service runs them.
        projection: the one that the contract names, if it names one.
        gpu: the adopted embedder on the GPU, where there is one.

    Raises:
        BundleError: a deviation is past its limit; the message gives the figure.
    """
    photo = group_photo()
    crops = face_crops(Recognizer(detector, embedder, contract.alignment.template, contract.alignment.size))
    expected = published_embedder(published[1], contract, projection)(crops)[0]
    found = closeness(expected, embedder, crops)
    box_px, score = _detector_deviation(published[0], detector, photo)
    found.require(EXACT)
    require("the detector's deviation in pixels", box_px, MAX_DETECTOR_PX)
    require("the detector's deviation in score", score, MAX_DETECTOR_SCORE)
    return Parity(
        crops=found.crops,
        min_cosine=found.min_cosine,
        max_abs_deviation=found.max_abs_deviation,
        max_batch_deviation=found.max_batch_deviation,
        detector_max_px=box_px,
        detector_max_score=score,
        gpu=None if gpu is None else parity_on_gpu(expected, gpu, crops, EXACT),
    )


def parity_on_gpu(
    expected: NDArray[np.floating[Any]], embedder: Embedder, crops: NDArray[np.uint8], limits: Limits
) -> ProviderParity:
    """Raises BundleError past the wider of the precision's and the GPU's own limits."""
    found = closeness(expected, embedder, crops)
    wider = Limits(
        min(limits.min_cosine, MIN_COSINE_ON_GPU),
        max(limits.max_batch_deviation, MAX_BATCH_DEVIATION_ON_GPU),
        limits.max_accuracy_drop,
    )
    found.require(wider, " on the GPU")
    return ProviderParity(
        provider="CUDAExecutionProvider",
        min_cosine=found.min_cosine,
        max_abs_deviation=found.max_abs_deviation,
        max_batch_deviation=found.max_batch_deviation,
    )


def closeness(expected: NDArray[np.floating[Any]], embedder: Embedder, crops: NDArray[np.uint8]) -> Closeness:
    """Of ``embedder`` to the embeddings (n, d) that are expected of the crops."""
    batch, _ = embedder(crops)
    alone = np.concatenate([embedder(crop[None])[0] for crop in crops])
    return Closeness(
        crops=len(crops),
        min_cosine=float(np.min(np.sum(expected.astype(np.float64) * batch, axis=1))),
        max_abs_deviation=float(np.abs(expected - batch).max()),
        max_batch_deviation=float(np.abs(batch - alone).max()),
    )


def group_photo() -> Image:
    """The photo that parity is measured on."""
    return Image(np.ascontiguousarray(get_image(GROUP_PHOTO)[:, :, ::-1]))


def face_crops(recognizer: Recognizer) -> NDArray[np.uint8]:
    """Aligned faces (n, size, size, 3) of the group photo.

    Raises:
        BundleError: none is found.
    """
    photo = group_photo()
    crops = [recognizer.crop(photo, face) for face in recognizer.detect(photo)]
    if not crops:
        raise BundleError("The adopted detector finds no face in the photo that parity is measured on.")
    return np.stack(crops)


def published_embedder(features: Features, contract: EmbeddingContract, projection: Projection | None) -> Embedder:
    """A published embedder as the recognizer calls one: crop by crop, all but the network in float64."""

    def embed(crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        found = [_embed_slowly(features, crop, contract, projection) for crop in crops]
        return np.stack(found).astype(np.float32), np.ones(len(crops), np.float32)

    return embed


def _embed_slowly(
    features: Features, crop: NDArray[np.uint8], contract: EmbeddingContract, projection: Projection | None
) -> NDArray[np.float64]:
    given = contract.preprocessing
    pixels = (crop if given.channels == "RGB" else crop[:, :, ::-1]).astype(np.float64)
    planes = ((pixels - given.mean) / given.scale).transpose(2, 0, 1)
    views = [planes] if contract.fusion == "none" else [planes, planes[:, :, ::-1]]
    found = [features(np.ascontiguousarray(view[None]))[0].astype(np.float64) for view in views]
    embedding = _unit(np.concatenate(found) if contract.fusion == "concat" else np.sum(found, axis=0))
    if projection is None:
        return embedding
    return _unit(projection.components.astype(np.float64) @ (embedding - projection.mean))


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(vector / np.linalg.norm(vector), np.float64)


def _detector_deviation(detections: Detections, detector: Detector, photo: Image) -> tuple[float, float]:
    """Largest difference in pixels and in score over all anchors that either side scores at least 0.02.

    Below, the square root of two probabilities near zero magnifies float32 rounding, and nothing reads it.
    """
    square = np.zeros((_SIDE, _SIDE, 3), np.uint8)
    scale = _SIDE / max(photo.width, photo.height)
    small = cv2.resize(photo.pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    square[: small.shape[0], : small.shape[1]] = small
    expected = detections(square)
    found = tuple(part[0] for part in detector(square[None]))
    seen = np.maximum(expected[1], found[1]) >= 0.02
    px = max(float(np.abs(found[i][seen] - expected[i][seen]).max()) for i in (0, 2))
    return px, float(np.abs(found[1] - expected[1])[seen].max())


def require(what: str, value: float, limit: float, at_least: bool = False) -> None:
    """Raises BundleError unless the value is within the limit; a NaN never is."""
    if not (value >= limit if at_least else value <= limit):
        raise BundleError(f"Parity failed: {what} is {value:.8g}, the limit is {limit:g}. No bundle was made.")
