"""Five landmarks to an aligned crop: the field's 112×112 similarity transform."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from service.recognition.resample import warp
from service.recognition.types import Image


def similarity_transform(points: ArrayLike, template: ArrayLike) -> NDArray[np.float64]:
    """The rotation, uniform scale and shift that bring ``points`` closest to ``template``.

    Least squares in closed form: with points as complex numbers z and w, a = Σ z̄'w' / Σ|z'|² (primes: centred),
    b = w̄ − a·z̄. Over rotations this is Umeyama's solution (PAMI 1991), which ``insightface`` uses, without its SVD.

    Args:
        points, template: (k, 2) as (x, y).

    Returns:
        float64 (2, 3), to be applied to column vectors (x, y, 1).

    Raises:
        ValueError: all points are the same.
    """
    source, target = np.asarray(points, np.float64), np.asarray(template, np.float64)
    z, w = source[:, 0] + 1j * source[:, 1], target[:, 0] + 1j * target[:, 1]
    centred = z - z.mean()
    spread = float(np.sum(np.abs(centred) ** 2))
    if spread < 1e-12:
        raise ValueError(f"Landmarks all in one place, {source[0].tolist()}, have no orientation.")
    a = np.sum(centred.conj() * (w - w.mean())) / spread
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def align(image: Image, landmarks: ArrayLike, template: ArrayLike, size: int) -> NDArray[np.uint8]:
    """Cut out one face, upright and scaled; outside the image is black, as in ``insightface``'s ``norm_crop``.

    Args:
        image: the photo.
        landmarks: (5, 2) in pixels of the photo.
        template: (5, 2) in pixels of the crop.
        size: side of the crop in pixels.

    Returns:
        uint8 (size, size, 3) RGB.
    """
    return warp(image, similarity_transform(landmarks, template), size, size)
