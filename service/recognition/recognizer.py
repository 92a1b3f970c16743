"""The pipeline in one place: decode → detect → align → embed. READ THIS FIRST.

    photo = recognizer.decode(content)
    faces = recognizer.detect(photo)
    [a]   = recognizer.embed([(photo, face) for face in select_faces(faces, "single", ...)])
    similarity = a.embedding @ b.embedding

Pure numpy and OpenCV around two networks that are passed in; thread-safe, as nothing here is changed after
construction.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from service.recognition.align import align
from service.recognition.decode import COARSEST, decode
from service.recognition.detect import DetectionOptions, detect
from service.recognition.quality import Quality, measure
from service.recognition.tilt import TiltOptions, straighten
from service.recognition.types import Detector, EmbeddedFace, Embedder, Face, Image


@dataclass(frozen=True)
class RecognitionOptions:
    """Limits and thresholds of recognition.

    Attributes:
        max_pixels: larger photos are refused before decoding.
        min_face_size: faces whose box has a shorter side than this, in pixels, are not compared.
        max_batch: crops embedded in one call of the network.
        tilt: how landmarks of tilted heads are taken again; None for a detector whose first ones are true.
    """

    max_pixels: int = 50_000_000
    min_face_size: float = 16.0
    max_batch: int = 16
    detection: DetectionOptions = field(default_factory=DetectionOptions)
    tilt: TiltOptions | None = field(default_factory=TiltOptions)


class Recognizer:
    """Faces out of photos, embeddings out of faces."""

    def __init__(
        self,
        detector: Detector,
        embedder: Embedder,
        template: ArrayLike,
        crop_size: int,
        options: RecognitionOptions | None = None,
        decoder: Callable[[bytes, int, int], Image] = decode,
    ) -> None:
        """
        Args:
            detector, embedder: the bundle's two networks.
            template: (5, 2) where the landmarks come to lie in the crop.
            crop_size: side of the crop in pixels.
            decoder: what stands for ``decode``, the same in another process.
        """
        self._decode = decoder
        self.options = options or RecognitionOptions()
        self._detection = replace(self.options.detection, smallest=self.options.min_face_size)
        # The coarsest level in which a face of the smallest size is still seen in one look.
        ratio = max(1.0, self.options.min_face_size / self._detection.smallest_clear)
        self._level = min(COARSEST, int(np.log2(ratio)))
        self.detector = detector
        self.embedder = embedder
        self._template = np.asarray(template, np.float64)
        self._crop_size = crop_size

    def decode(self, content: bytes) -> Image:
        """Encoded bytes to an upright RGB image; see ``service.recognition.decode`` for what is refused.

        Where faces must be large, a large JPEG is decoded in a coarser level, and finer ones where a face needs it.
        """
        return self._decode(content, self.options.max_pixels, self._level)

    def detect(self, image: Image) -> list[Face]:
        """All faces, largest first; none is an ordinary answer."""
        faces = detect(image, self.detector, self._detection)
        return faces if self.options.tilt is None else straighten(image, self.detector, faces, self.options.tilt)

    def crop(self, image: Image, face: Face) -> NDArray[np.uint8]:
        """The aligned face, uint8 (112, 112, 3) RGB."""
        return align(image, face.landmarks, self._template, self._crop_size)

    def quality(self, image: Image, face: Face) -> Quality:
        """Measures of one face; needs no network."""
        return measure(face, self.crop(image, face))

    def embed_crops(self, crops: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Embeddings (k, d) of unit length and feature norms (k,) of aligned crops."""
        parts = [
            self.embedder(np.stack(crops[start : start + self.options.max_batch]))
            for start in range(0, len(crops), self.options.max_batch)
        ]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def embed(self, faces: Sequence[tuple[Image, Face]]) -> list[EmbeddedFace]:
        """Embed faces, also of several photos, in as few calls of the network as possible."""
        return self.embed_aligned([face for _, face in faces], [self.crop(image, face) for image, face in faces])

    def embed_aligned(self, faces: Sequence[Face], crops: Sequence[NDArray[np.uint8]]) -> list[EmbeddedFace]:
        """Embed faces whose crops are there already, one for each."""
        if not faces:
            return []
        embeddings, norms = self.embed_crops(crops)
        return [
            EmbeddedFace(face, crop, embedding, float(norm))
            for face, crop, embedding, norm in zip(faces, crops, embeddings, norms, strict=True)
        ]
