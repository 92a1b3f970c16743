"""The values that flow through recognition: ``bytes → Image → Face → crop → EmbeddedFace``."""

from dataclasses import dataclass, field
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Image:
    """A decoded photo, upright.

    Attributes:
        pixels: uint8 (H, W, 3) RGB.
    """

    pixels: NDArray[np.uint8]
    _levels: list[NDArray[np.uint8]] = field(default_factory=list, init=False, repr=False, compare=False)

    def level(self, k: int) -> NDArray[np.uint8]:
        """Level k of the image pyramid: each pixel the mean of 2^k × 2^k, uint8 (⌊H/2^k⌋, ⌊W/2^k⌋, 3).

        Made when first asked for and kept; an odd last row or column falls away. Beyond the last level with a whole
        pixel there is one black one. For use by one thread.
        """
        if k == 0:
            return self.pixels
        while len(self._levels) < k:
            finer = self._levels[-1] if self._levels else self.pixels
            height, width = finer.shape[0] // 2, finer.shape[1] // 2
            if not height or not width:
                return np.zeros((1, 1, 3), np.uint8)
            # Exactly 2:1 is OpenCV's fast path, and keeps pixel centres where arithmetic expects them.
            even = finer[: 2 * height, : 2 * width]
            self._levels.append(np.asarray(cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA), np.uint8))
        return self._levels[k - 1]

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])


@dataclass(frozen=True)
class Face:
    """One detected face, in pixels of the upright image.

    Attributes:
        box: float32 (4,): x1, y1, x2, y2; may reach outside the image where the face does.
        landmarks: float32 (5, 2): left eye, right eye, nose tip, left and right mouth corner as seen by the viewer.
        score: detection score, 0..1.
    """

    box: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    score: float

    @property
    def area(self) -> float:
        """Of the box, in square pixels."""
        return float((self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))

    @property
    def size(self) -> float:
        """Shorter side of the box, in pixels; unlike the distance of the eyes it holds for turned heads."""
        return float(np.min(self.box[2:] - self.box[:2]))

    @property
    def inter_eye_distance(self) -> float:
        """Between the two eye centres, in pixels."""
        return float(np.hypot(*(self.landmarks[1] - self.landmarks[0])))


@dataclass(frozen=True)
class EmbeddedFace:
    """A face with what identifies it.

    Attributes:
        face: where it was found.
        crop: the aligned face that was embedded, uint8 (112, 112, 3) RGB.
        embedding: float32 (d,), unit length.
        feature_norm: length before normalisation; low for poor images.
    """

    face: Face
    crop: NDArray[np.uint8]
    embedding: NDArray[np.float32]
    feature_norm: float


class Detector(Protocol):
    """A face detector over equally sized images, see ``service.runtime.networks.DetectorNetwork``."""

    def __call__(
        self, images: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]: ...


class Embedder(Protocol):
    """An embedder over aligned crops, see ``service.runtime.networks.EmbedderNetwork``."""

    def __call__(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...
