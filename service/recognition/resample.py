"""Affine resampling without aliasing; alignment and the detector's views all cut their regions with it."""

import cv2
import numpy as np
from numpy.typing import NDArray

from service.recognition.types import Image


def warp(image: Image, matrix: NDArray[np.float64], width: int, height: int) -> NDArray[np.uint8]:
    """Sample a photo under a similarity transform; outside the photo is black.

    Bilinear from the level of the photo's pyramid that leaves less than a factor of two to shrink, so that every
    source pixel counts (mip mapping: Williams, "Pyramidal Parametrics", SIGGRAPH 1983). Of a photo that was decoded in
    a coarser level than that, from the finest there is.

    Args:
        image: the photo.
        matrix: float64 (2, 3), from photo pixels (x, y, 1) to target pixels; rotation, uniform scale and shift.
        width, height: of the target.

    Returns:
        uint8 (height, width, 3) RGB.
    """
    shrink = 1.0 / float(np.hypot(matrix[0, 0], matrix[1, 0]))  # photo pixels per target pixel
    level = max(image.finest, int(np.floor(np.log2(shrink))))
    side = 2**level
    # Pixel centres: photo x = side·x' + (side − 1)/2 for x' in the level.
    to_photo = np.array([[side, 0, (side - 1) / 2], [0, side, (side - 1) / 2], [0, 0, 1]], np.float64)
    return _sample(image.level(level), (matrix @ to_photo).astype(np.float64), width, height)


def _sample(pixels: NDArray[np.uint8], matrix: NDArray[np.float64], width: int, height: int) -> NDArray[np.uint8]:
    """``cv2.warpAffine`` of the part that is seen, with a fourth channel: OpenCV takes half as long with four as with
    three."""
    back = cv2.invertAffineTransform(matrix)
    corners = np.array([[-1, -1, 1], [width, -1, 1], [-1, height, 1], [width, height, 1]], np.float64) @ back.T
    left, top = np.maximum(np.floor(corners.min(axis=0)).astype(int) - 1, 0).tolist()
    right, bottom = (np.ceil(corners.max(axis=0)).astype(int) + 2).tolist()
    seen = pixels[top : max(bottom, 0), left : max(right, 0)]
    if not seen.size:
        return np.zeros((height, width, 3), np.uint8)
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ np.array([left, top], np.float64)
    four = cv2.warpAffine(cv2.cvtColor(seen, cv2.COLOR_RGB2RGBA), shifted, (width, height), flags=cv2.INTER_LINEAR)
    return np.asarray(cv2.cvtColor(four, cv2.COLOR_RGBA2RGB), np.uint8)
