"""Published networks run as they are, one image at a time: what adopted ones are measured against.

Detectors are decoded by numpy in float64, from the formulas in the modules that put the same into graphs.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from export.catalog import Architecture
from service.errors import BundleError

Maps = Mapping[str, NDArray[np.float32]]
Session = Callable[[NDArray[np.float32]], Maps]
# Boxes (a, 4), scores (a,) and landmarks (a, 5, 2), in pixels of the image.
Decoded = tuple[NDArray[np.float64], ...]
# A published detector: one image, uint8 (side, side, 3) RGB, side in multiples of 32, to what it proposes.
Detections = Callable[[NDArray[np.uint8]], Decoded]
# A published embedder: one normalised crop or mirrored crop, (1, 3, 112, 112), to its feature, (1, d).
Features = Callable[[NDArray[np.float64]], NDArray[np.floating[Any]]]


def onnx_detections(published: Path, architecture: Architecture) -> Detections:
    """A detector's published ONNX file, for ``measure_parity``."""
    session = _run(_with_free_sizes(published) if architecture == "centerface" else published.read_bytes())

    def yunet(image: NDArray[np.uint8]) -> Decoded:
        return decode_yunet(session(_planes(image[:, :, ::-1])), len(image))

    def scrfd(image: NDArray[np.uint8]) -> Decoded:
        return decode_scrfd([*session((_planes(image) - np.float32(127.5)) / np.float32(128)).values()], len(image))

    def centerface(image: NDArray[np.uint8]) -> Decoded:
        return decode_centerface([*session(_planes(image)).values()])

    return {"yunet": yunet, "scrfd": scrfd, "centerface": centerface}[architecture]


def onnx_features(published: Path, planes_last: bool = False) -> Features:
    """An embedder's published ONNX file, for ``measure_parity``.

    Args:
        planes_last: its input is (1, 112, 112, 3).

    Raises:
        BundleError: ONNX Runtime cannot load it.
    """
    try:
        session = _run(published.read_bytes())
    except Exception as error:  # ONNX Runtime raises a private exception class per status code
        raise BundleError(f"{published.name} cannot be run: {error}") from error

    def features(planes: NDArray[np.float64]) -> NDArray[np.float32]:
        given = planes.transpose(0, 2, 3, 1) if planes_last else planes
        return next(iter(session(np.ascontiguousarray(given, np.float32)).values()))

    return features


def decode_yunet(outputs: Maps, side: int) -> Decoded:
    """YuNet's maps of a square image, as ``export.yunet`` explains them."""
    boxes, scores, landmarks = [], [], []
    for stride in (8, 16, 32):
        grid = _cells(side // stride, side // stride)
        named = {k: outputs[f"{k}_{stride}"][0].astype(np.float64) for k in ("cls", "obj", "bbox", "kps")}
        centre = (grid + named["bbox"][:, :2]) * stride
        half = np.exp(named["bbox"][:, 2:]) * stride / 2
        boxes.append(np.concatenate([centre - half, centre + half], axis=1))
        scores.append(np.sqrt(named["cls"][:, 0] * named["obj"][:, 0]))
        landmarks.append((named["kps"].reshape(-1, 5, 2) + grid[:, None]) * stride)
    return np.concatenate(boxes), np.concatenate(scores), np.concatenate(landmarks)


def decode_scrfd(outputs: Sequence[NDArray[np.float32]], side: int) -> Decoded:
    """SCRFD's maps of a square image, as ``export.scrfd`` explains them."""
    boxes, scores, landmarks = [], [], []
    for i, stride in enumerate((8, 16, 32)):
        cell = _cells(side // stride, side // stride).repeat(2, axis=0)  # two anchors a cell
        score, distances, points = (outputs[k].astype(np.float64).reshape(len(cell), -1) for k in (i, i + 3, i + 6))
        boxes.append(np.concatenate([cell - distances[:, :2], cell + distances[:, 2:]], axis=1) * stride)
        scores.append(score[:, 0])
        landmarks.append((points.reshape(-1, 5, 2) + cell[:, None]) * stride)
    return np.concatenate(boxes), np.concatenate(scores), np.concatenate(landmarks)


def decode_centerface(outputs: Sequence[NDArray[np.float32]]) -> Decoded:
    """CenterFace's maps, as ``export.centerface`` explains them."""
    scores, sizes, offsets, points = (m[0].astype(np.float64).transpose(1, 2, 0) for m in outputs)
    cells = _cells(*scores.shape[:2])
    size = 4 * np.exp(sizes.reshape(-1, 2)[:, ::-1])
    corner = (cells + offsets.reshape(-1, 2)[:, ::-1] + 0.5) * 4 - size / 2
    landmarks = corner[:, None] + points.reshape(-1, 5, 2)[:, :, ::-1] * size[:, None]
    return np.concatenate([corner, corner + size], axis=1), scores.ravel(), landmarks


def _cells(rows: int, columns: int) -> NDArray[np.float64]:
    """Column and row of every cell, (rows · columns, 2), row by row."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    return np.stack([column, row], axis=1).astype(np.float64)


def _planes(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32)


def _with_free_sizes(published: Path) -> bytes:
    """The file without the input's shape that it was exported with; ONNX Runtime would insist on that."""
    model = onnx.load(str(published))
    for value in (*model.graph.input, *model.graph.output):
        for axis in value.type.tensor_type.shape.dim:
            axis.Clear()
    return bytes(model.SerializeToString())


def _run(published: bytes) -> Session:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(published, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    image = session.get_inputs()[0].name
    return lambda pixels: dict(zip(names, session.run(names, {image: pixels}), strict=True))
