"""The gate every bundle passes: the same real faces through the published files and through the adopted ones.

The published side is run the slow, obvious way: one crop at a time, mirrored with numpy, fused, normalised and
projected in float64; anchors decoded by numpy (``export.published``). Past a limit there is no bundle.
"""

import cv2
import numpy as np
from insightface.data import get_image
from numpy.typing import NDArray

from export.projection import Projection
from export.published import Detections, Features
from service.errors import BundleError
from service.recognition.recognizer import Recognizer
from service.recognition.types import Detector, Embedder, Image
from service.runtime.card import EmbeddingContract, Parity

MIN_COSINE = 0.99999
MAX_BATCH_DEVIATION = 1e-5
MAX_DETECTOR_PX = 0.05
MAX_DETECTOR_SCORE = 1e-4

# A group photo that comes with insightface: six people, so there are real crops on every machine.
GROUP_PHOTO = "t1"
_SIDE = 640  # of the square that published detectors are given; YuNet takes no other


def measure_parity(
    published: tuple[Detections, Features],
    detector: Detector,
    embedder: Embedder,
    contract: EmbeddingContract,
    projection: Projection | None = None,
) -> Parity:
    """Compare an adopted detector and embedder with what they were made from.

    Args:
        published: detector and embedder as they were before.
        detector, embedder: the adopted networks, as the service runs them.
        projection: the one that the contract names, if it names one.

    Raises:
        BundleError: a deviation is past its limit; the message gives the figure.
    """
    photo = Image(np.ascontiguousarray(get_image(GROUP_PHOTO)[:, :, ::-1]))
    recognizer = Recognizer(detector, embedder, contract.alignment.template, contract.alignment.size)
    crops = [recognizer.crop(photo, face) for face in recognizer.detect(photo)]
    if not crops:
        raise BundleError("The adopted detector finds no face in the photo that parity is measured on.")
    expected = np.stack([_embed_slowly(published[1], crop, contract, projection) for crop in crops])
    batch, _ = embedder(np.stack(crops))
    alone = np.concatenate([embedder(crop[None])[0] for crop in crops])
    box_px, score = _detector_deviation(published[0], detector, photo)
    cosine = float(np.min(np.sum(expected * batch, axis=1)))
    batch_deviation = float(np.abs(batch - alone).max())
    # Compared so that a NaN, which is no number to hold against a limit, does not pass.
    _require("the cosine to the published embedder", cosine, cosine >= MIN_COSINE, MIN_COSINE)
    for what, value, limit in (
        ("the difference between a batch and single crops", batch_deviation, MAX_BATCH_DEVIATION),
        ("the detector's deviation in pixels", box_px, MAX_DETECTOR_PX),
        ("the detector's deviation in score", score, MAX_DETECTOR_SCORE),
    ):
        _require(what, value, value <= limit, limit)
    return Parity(
        crops=len(crops),
        min_cosine=cosine,
        max_abs_deviation=float(np.abs(expected - batch).max()),
        max_batch_deviation=batch_deviation,
        detector_max_px=box_px,
        detector_max_score=score,
    )


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


def _require(what: str, value: float, within: bool, limit: float) -> None:
    if not within:
        raise BundleError(f"Parity failed: {what} is {value:.8g}, the limit is {limit:g}. No bundle was made.")
