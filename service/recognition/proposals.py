"""What a detector proposes in one view of a photo, and the arithmetic on it: thresholds, places, suppression."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.recognition.types import Detector


@dataclass(frozen=True)
class Proposals:
    """k proposals. ``clear`` marks those that need no second look.

    Attributes:
        boxes: float32 (k, 4) as x1, y1, x2, y2.
        landmarks: float32 (k, 5, 2).
        scores: float32 (k,), 0..1.
        clear: bool (k,).
    """

    boxes: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    scores: NDArray[np.float32]
    clear: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def widths(self) -> NDArray[np.float32]:
        """Of the boxes, (k,)."""
        return self.boxes[:, 2] - self.boxes[:, 0]

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> "Proposals":
        """Those at ``index``, or where a mask is true."""
        return Proposals(self.boxes[index], self.landmarks[index], self.scores[index], self.clear[index])

    def place(self, scale: float, corner: Sequence[float] | NDArray[np.float64]) -> "Proposals":
        """From pixels of a view to pixels of the photo; the inverse of ``view_matrix``."""
        shift = (np.asarray(corner) + 0.5 / scale - 0.5).astype(np.float32)
        boxes = self.boxes / np.float32(scale) + np.tile(shift, 2)
        return Proposals(boxes, self.landmarks / np.float32(scale) + shift, self.scores, self.clear)


def view_matrix(scale: float, corner: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Photo to view, (2, 3): ``corner`` of the photo comes to the view's corner, ``scale`` view pixels per photo pixel.

    The ½ keep pixel centres on pixel centres.
    """
    half = (scale - 1) / 2
    return np.array([[scale, 0, half - corner[0] * scale], [0, scale, half - corner[1] * scale]], np.float64)


def propose(network: Detector, views: NDArray[np.uint8], min_score: float) -> list[Proposals]:
    """Run the network on equally sized views (n, h, w, 3); proposals of each, in its own pixels, none clear yet."""
    boxes, scores, landmarks = network(views)
    result = []
    for b, s, p in zip(boxes, scores, landmarks, strict=True):
        keep = s >= min_score
        result.append(Proposals(b[keep], p[keep], s[keep], np.zeros(int(keep.sum()), bool)))
    return result


def join(parts: Sequence[Proposals]) -> Proposals:
    """All proposals of all parts, in order."""
    if not parts:
        empty = np.empty((0, 4), np.float32)
        return Proposals(empty, np.empty((0, 5, 2), np.float32), np.empty(0, np.float32), np.empty(0, bool))
    return Proposals(
        np.concatenate([p.boxes for p in parts]),
        np.concatenate([p.landmarks for p in parts]),
        np.concatenate([p.scores for p in parts]),
        np.concatenate([p.clear for p in parts]),
    )


def suppress(proposals: Proposals, max_overlap: float, max_contained: float = 1.0) -> Proposals:
    """Non-maximum suppression: the proposals that no better one covers, best score first.

    Args:
        max_overlap: intersection over union above which two boxes are one face.
        max_contained: share of the smaller box inside the larger above which they are one face.
    """
    x1, y1, x2, y2 = proposals.boxes.astype(np.float64).T
    areas = (x2 - x1) * (y2 - y1)
    order = np.argsort(-proposals.scores, kind="stable")
    keep: list[int] = []
    while order.size:
        best, rest = order[0], order[1:]
        keep.append(int(best))
        width = np.minimum(x2[best], x2[rest]) - np.maximum(x1[best], x1[rest])
        height = np.minimum(y2[best], y2[rest]) - np.maximum(y1[best], y1[rest])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        apart = shared <= max_overlap * (areas[best] + areas[rest] - shared)
        order = rest[apart & (shared <= max_contained * np.minimum(areas[best], areas[rest]))]
    return proposals.take(np.array(keep, np.intp))


def covered(proposals: Proposals, by: Proposals, share: float) -> NDArray[np.bool_]:
    """Bool (k,): more than ``share`` of the proposal's box lies in one box of ``by``."""
    return np.asarray((_shared(proposals, by) > share * _areas(proposals)[:, None]).any(axis=1))


def repeated(proposals: Proposals, by: Proposals, max_overlap: float) -> NDArray[np.bool_]:
    """Bool (k,): intersection over union with one box of ``by`` is more than ``max_overlap``."""
    shared = _shared(proposals, by)
    union = _areas(proposals)[:, None] + _areas(by)[None] - shared
    return np.asarray((shared > max_overlap * union).any(axis=1))


def _shared(a: Proposals, b: Proposals) -> NDArray[np.float64]:
    """Areas of intersection, (len(a), len(b))."""
    first, second = a.boxes[:, None].astype(np.float64), b.boxes[None].astype(np.float64)
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    return np.asarray(np.prod(np.maximum(sides, 0), axis=2), np.float64)


def _areas(proposals: Proposals) -> NDArray[np.float64]:
    boxes = proposals.boxes.astype(np.float64)
    return np.asarray(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), np.float64)
