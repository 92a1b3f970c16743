"""The values that flow through recognition: ``bytes → Image → Face → crop → EmbeddedFace``."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidImage


class Image:
    """A photo, upright, as levels of its pyramid. For use by one thread.

    Attributes:
        height, width: in pixels of the whole photo, which is level 0.
    """

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        level: int = 0,
        decode_whole: Callable[[], NDArray[np.uint8]] | None = None,
    ) -> None:
        """
        Args:
            pixels: uint8 (H, W, 3) RGB, decoded in this ``level``.
            decode_whole: decodes the photo again, in level 0, where it was decoded in another. May raise.
        """
        self.height, self.width = int(pixels.shape[0]) << level, int(pixels.shape[1]) << level
        self._levels = {level: pixels}
        self._decode_whole = decode_whole

    @property
    def finest(self) -> int:
        """The finest level there is without decoding the photo again."""
        return min(self._levels)

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The whole photo, uint8 (H, W, 3) RGB; see ``whole``."""
        return self.whole()._levels[0]

    def whole(self) -> "Image":
        """This photo, decoded again where there is only a coarser level."""
        if self._decode_whole is not None and self.finest:
            pixels = self._decode_whole()
            if pixels.shape != (self.height, self.width, 3):
                raise InvalidImage(f"The image has another size when it is decoded again: {pixels.shape[:2]}.")
            self._levels = {0: pixels}
        return self

    def level(self, k: int) -> NDArray[np.uint8]:
        """Level k of the image pyramid: each pixel the mean of 2^k × 2^k, uint8 (⌊H/2^k⌋, ⌊W/2^k⌋, 3).

        Made when first asked for and kept, out of the finest there is; an odd last row or column falls away. Beyond
        the last level with a whole pixel there is one black one.

        Args:
            k: not below ``finest``.
        """
        if k not in self._levels:
            self._levels[k] = _halved(self.level(k - 1))
        return self._levels[k]


def _halved(finer: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = finer.shape[0] // 2, finer.shape[1] // 2
    if not height or not width:
        return np.zeros((1, 1, 3), np.uint8)
    # Exactly 2:1 is OpenCV's fast path, and keeps pixel centres where arithmetic expects them.
    even = finer[: 2 * height, : 2 * width]
    return np.asarray(cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


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
        self, images: NDArray[np.uint8], /
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]: ...


class Embedder(Protocol):
    """An embedder over aligned crops, see ``service.runtime.networks.EmbedderNetwork``."""

    def __call__(self, crops: NDArray[np.uint8], /) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...
