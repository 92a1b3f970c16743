"""The gate every bundle passes: the same real faces through the published files and through the adopted ones.

The published side is run the slow, obvious way: one crop at a time, mirrored with numpy, fused and normalised in
float64; anchors decoded by loops over the strides. Past a limit there is no bundle.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
from insightface.data import get_image
from numpy.typing import NDArray

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
_YUNET_SIDE = 640


def measure_parity(
    published: tuple[Path, Path], detector: Detector, embedder: Embedder, contract: EmbeddingContract
) -> Parity:
    """Compare an adopted detector and embedder with the published files they were made from.

    Args:
        published: the detector's and the embedder's ONNX file.
        detector, embedder: the adopted networks, as the service runs them.

    Raises:
        BundleError: a deviation is past its limit; the message gives the figure.
    """
    photo = Image(np.ascontiguousarray(get_image(GROUP_PHOTO)[:, :, ::-1]))
    recognizer = Recognizer(detector, embedder, contract.alignment.template, contract.alignment.size)
    crops = [recognizer.crop(photo, face) for face in recognizer.detect(photo)]
    if not crops:
        raise BundleError("The adopted detector finds no face in the photo that parity is measured on.")
    embed_published = _run(published[1])
    expected = np.stack([_embed_slowly(embed_published, crop, contract) for crop in crops])
    batch, _ = embedder(np.stack(crops))
    alone = np.concatenate([embedder(crop[None])[0] for crop in crops])
    box_px, score = _detector_deviation(_run(published[0]), detector, photo)
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


def decode_yunet(outputs: dict[str, NDArray[np.float32]], side: int) -> tuple[NDArray[np.float64], ...]:
    """Published YuNet's maps to boxes (a, 4), scores (a,) and landmarks (a, 5, 2), in float64."""
    boxes, scores, landmarks = [], [], []
    for stride in (8, 16, 32):
        cells = side // stride
        column, row = np.meshgrid(np.arange(cells), np.arange(cells))
        grid = np.stack([column.ravel(), row.ravel()], axis=1).astype(np.float64)
        named = {k: outputs[f"{k}_{stride}"][0].astype(np.float64) for k in ("cls", "obj", "bbox", "kps")}
        centre = (grid + named["bbox"][:, :2]) * stride
        half = np.exp(named["bbox"][:, 2:]) * stride / 2
        boxes.append(np.concatenate([centre - half, centre + half], axis=1))
        scores.append(np.sqrt(named["cls"][:, 0] * named["obj"][:, 0]))
        landmarks.append((named["kps"].reshape(-1, 5, 2) + grid[:, None]) * stride)
    return np.concatenate(boxes), np.concatenate(scores), np.concatenate(landmarks)


Session = Callable[[NDArray[np.float32]], dict[str, NDArray[np.float32]]]


def _run(published: Path) -> Session:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(published), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    image = session.get_inputs()[0].name
    return lambda pixels: dict(zip(names, session.run(names, {image: pixels}), strict=True))


def _embed_slowly(session: Session, crop: NDArray[np.uint8], contract: EmbeddingContract) -> NDArray[np.float64]:
    given = contract.preprocessing
    pixels = (crop if given.channels == "RGB" else crop[:, :, ::-1]).astype(np.float32)
    planes = ((pixels - given.mean) / given.scale).transpose(2, 0, 1)
    views = [planes] if contract.fusion == "none" else [planes, planes[:, :, ::-1]]
    features = [
        next(iter(session(np.ascontiguousarray(v[None], np.float32)).values()))[0].astype(np.float64) for v in views
    ]
    fused = np.concatenate(features) if contract.fusion == "concat" else np.sum(features, axis=0)
    return np.asarray(fused / np.linalg.norm(fused), np.float64)


def _detector_deviation(session: Session, detector: Detector, photo: Image) -> tuple[float, float]:
    """Largest difference in pixels and in score over all anchors that either side scores at least 0.02.

    Below, the square root of two probabilities near zero magnifies float32 rounding, and nothing reads it.
    """
    square = np.zeros((_YUNET_SIDE, _YUNET_SIDE, 3), np.uint8)
    scale = _YUNET_SIDE / max(photo.width, photo.height)
    small = cv2.resize(photo.pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    square[: small.shape[0], : small.shape[1]] = small
    bgr = square[:, :, ::-1].transpose(2, 0, 1)[None].astype(np.float32)
    expected = decode_yunet(session(bgr), _YUNET_SIDE)
    found = tuple(part[0] for part in detector(square[None]))
    seen = np.maximum(expected[1], found[1]) >= 0.02
    px = max(float(np.abs(found[i][seen] - expected[i][seen]).max()) for i in (0, 2))
    return px, float(np.abs(found[1] - expected[1])[seen].max())


def _require(what: str, value: float, within: bool, limit: float) -> None:
    if not within:
        raise BundleError(f"Parity failed: {what} is {value:.8g}, the limit is {limit:g}. No bundle was made.")
