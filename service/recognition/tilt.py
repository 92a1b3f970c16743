"""Better landmarks for tilted heads.

YuNet draws landmarks towards those of an upright head, the more so the smaller the face: turned by 20° it reports a
tilt of some 6° when the face is 90 pixels wide in its input and 16° when it is 190 (``tests/benchmarks/tilted_heads``).
So every face is looked at large to learn the angle; where it is tilted it is turned upright by that, and its landmarks
are taken from the upright view, where they are at their best.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from service.recognition.proposals import Proposals, propose
from service.recognition.resample import warp
from service.recognition.types import Detector, Face, Image

# Windows that are run in one batch; bounds the memory.
_AT_ONCE = 8
# What a window must show at least of the face it was laid around.
_SCORE = 0.3


@dataclass(frozen=True)
class TiltOptions:
    """When and how landmarks are taken again.

    Attributes:
        smallest: degrees of tilt from which landmarks are taken again; below, the first ones are as good.
        angle_window, angle_face: side of the input from which the angle is read, and how wide the face is in it.
        angle_looks: how often it is read where there is a tilt; each reading takes away most of what is left of it.
        upright_window, upright_face: the same for the landmarks.
    """

    smallest: float = 6.0
    angle_window: int = 384
    angle_face: float = 160.0
    angle_looks: int = 2
    upright_window: int = 256
    upright_face: float = 90.0


def straighten(image: Image, network: Detector, faces: Sequence[Face], options: TiltOptions) -> list[Face]:
    """The faces, with better landmarks where the head is tilted; boxes and scores stay."""
    angles = _read_angles(image, network, faces, np.zeros(len(faces)), options)
    tilted = np.flatnonzero(np.abs(angles) >= options.smallest).tolist()
    if not tilted:
        return list(faces)
    chosen, angles = [faces[i] for i in tilted], angles[tilted]
    for _ in range(options.angle_looks - 1):
        angles = _read_angles(image, network, chosen, angles, options)
    views = _look(image, network, chosen, angles, options.upright_window, options.upright_face)
    straight = list(faces)
    for i, (points, to_photo) in zip(tilted, views, strict=True):
        if points is not None:
            landmarks = (points @ to_photo[:, :2].T + to_photo[:, 2]).astype(np.float32)
            straight[i] = Face(faces[i].box, landmarks, faces[i].score)
    return straight


def tilt(landmarks: NDArray[np.float32]) -> float:
    """Degrees by which a head leans, positive clockwise: the line of the eyes and that of the mouth together."""
    dx, dy = landmarks[1] - landmarks[0] + landmarks[4] - landmarks[3]
    return float(np.degrees(np.arctan2(dy, dx)))


def _read_angles(
    image: Image, network: Detector, faces: Sequence[Face], angles: NDArray[np.float64], options: TiltOptions
) -> NDArray[np.float64]:
    """Degrees of tilt, (n,), better than ``angles``: what a large view, turned by those, still shows is added."""
    views = _look(image, network, faces, angles, options.angle_window, options.angle_face)
    return np.array([a if p is None else a + tilt(p) for a, (p, _) in zip(angles, views, strict=True)])


def _look(
    image: Image, network: Detector, faces: Sequence[Face], angles: NDArray[np.float64], side: int, width: float
) -> list[tuple[NDArray[np.float32] | None, NDArray[np.float64]]]:
    """Landmarks of each face in a window that is turned by its angle, None if it isn't seen; and window to photo."""
    matrices = []
    for face, angle in zip(faces, angles, strict=True):
        x, y = ((face.box[:2] + face.box[2:]) / 2).tolist()
        matrix = cv2.getRotationMatrix2D((x, y), float(angle), width / float(face.box[2] - face.box[0]))
        matrix[:, 2] += np.array([side / 2 - x, side / 2 - y])
        matrices.append(np.asarray(matrix, np.float64))
    found: list[Proposals] = []
    for start in range(0, len(matrices), _AT_ONCE):
        windows = [warp(image, matrix, side, side) for matrix in matrices[start : start + _AT_ONCE]]
        found += propose(network, np.stack(windows), _SCORE)
    return [
        (_central(f, side, width), np.asarray(cv2.invertAffineTransform(m), np.float64))
        for f, m in zip(found, matrices, strict=True)
    ]


def _central(found: Proposals, side: int, width: float) -> NDArray[np.float32] | None:
    """Landmarks of the best face in the middle of a window."""
    centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    mine = found.take(np.abs(centres - side / 2).max(axis=1, initial=0) < width / 3)
    return mine.landmarks[int(np.argmax(mine.scores))] if len(mine) else None
