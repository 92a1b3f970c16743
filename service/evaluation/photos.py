"""Photos of a folder to embeddings: which face of a photo counts, many photos side by side, none left out.

The photos are embedded by a callable that the composition root brings, so that what is measured is the recognizer
that serves.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.errors import FaceNotFound, FaceTooSmall, InvalidImage, InvalidRequest
from service.progress import track


@dataclass(frozen=True, eq=False)
class EmbeddedFace:
    """``box`` (x1, y1, x2, y2) in pixels of the photo; ``embedding`` (d,) float32 of unit length, and the norm that it
    had before, NaN where that is not known."""

    box: tuple[float, float, float, float]
    embedding: NDArray[np.float32]
    feature_norm: float = float("nan")


@dataclass(frozen=True, eq=False)
class EmbeddedPhoto:
    """All faces found in a photo of ``width`` × ``height`` pixels; none is an empty sequence."""

    width: int
    height: int
    faces: Sequence[EmbeddedFace]


class EmbedPhoto(Protocol):
    """Detects and embeds every face of an encoded photo; called from several threads at once."""

    def __call__(self, data: bytes, /) -> EmbeddedPhoto:
        """Raises FaceNotFound, FaceTooSmall or InvalidImage where the photo gives no embedding."""


@dataclass(frozen=True, eq=False)
class PhotoSet:
    """Photos with one embedding each, that of the central face.

    ``names`` are paths relative to a folder, ``Person/photo.jpg``. ``detected`` (p,) bool and ``embeddings`` (p, d)
    float32 belong to them, with a row of zeros where nothing was detected. ``seconds`` is what embedding took.
    ``feature_norms`` (p,) are the lengths before normalisation, NaN where not known; None where none is.
    """

    names: tuple[str, ...]
    detected: NDArray[np.bool_]
    embeddings: NDArray[np.float32]
    seconds: float
    feature_norms: NDArray[np.float64] | None = None

    @property
    def undetected(self) -> list[str]:
        """The photos that gave no embedding."""
        return [name for name, detected in zip(self.names, self.detected, strict=True) if not detected]


def persons_of(names: Sequence[str]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The persons that photos are of, sorted, and for each photo which of them, (p,) int64: its folder's name."""
    persons, numbers = np.unique([name.split("/")[0] for name in names], return_inverse=True)
    return tuple(persons.tolist()), numbers.astype(np.int64)


class Boxed(Protocol):
    """Has a ``box``, x1, y1, x2, y2 in pixels of the photo."""

    @property
    def box(self) -> Iterable[float]: ...


F = TypeVar("F", bound=Boxed)


def central_face(faces: Sequence[F], width: int, height: int) -> F:
    """The face that LFW's label means: the one nearest to the centre of the photo.

    The distance is that of the box's centre in units of the square root of its area, so that of two faces
    equally far off the larger is taken. The first one, among equals.
    """
    if not faces:
        raise FaceNotFound("no face was detected")

    def off_centre(face: F) -> float:
        x1, y1, x2, y2 = face.box
        area = (x2 - x1) * (y2 - y1)
        distance = float(np.hypot((x1 + x2 - width) / 2, (y1 + y2 - height) / 2))
        return distance / float(np.sqrt(area)) if area > 0 else float("inf")

    return min(faces, key=off_centre)


def embed_photos(embed_photo: EmbedPhoto, images: Path, names: Sequence[str], workers: int) -> PhotoSet:
    """Embed each photo of the folder ``images`` once; see ``embed_contents``.

    Raises:
        InvalidRequest: also where a photo cannot be read.
    """

    def read(name: str) -> bytes:
        try:
            return (images / name).read_bytes()
        except OSError as error:
            raise InvalidRequest(f"the photo {name} in {images} cannot be read: {error}") from error

    return embed_contents(embed_photo, read, names, workers)


def embed_contents(
    embed_photo: EmbedPhoto, read: Callable[[str], bytes], names: Sequence[str], workers: int
) -> PhotoSet:
    """Embed each photo once, in ``workers`` threads, showing progress.

    A photo without a usable face, or that cannot be decoded, is kept as undetected: leaving it out would flatter
    the system.

    Args:
        read: the encoded photo of a name; called from the threads.

    Raises:
        InvalidRequest: fewer than one worker.
        FaceNotFound: not one photo gave an embedding.
    """
    if workers < 1:
        raise InvalidRequest(f"{workers} workers cannot do anything; give 1 or more")
    start = time.perf_counter()
    faces = list(_embed_all(embed_photo, read, names, workers))
    seconds = time.perf_counter() - start
    found = [face for face in faces if face is not None]
    if not found:
        raise FaceNotFound(f"no face was detected in any of the {len(names)} photos, the first being {names[0]}")
    empty = np.zeros_like(found[0][0])
    embeddings = np.stack([empty if face is None else face[0] for face in faces])
    norms = np.array([np.nan if face is None else face[1] for face in faces])
    return PhotoSet(tuple(names), np.array([face is not None for face in faces]), embeddings, seconds, norms)


def _embed_all(
    embed_photo: EmbedPhoto, read: Callable[[str], bytes], names: Sequence[str], workers: int
) -> Iterator[tuple[NDArray[np.float32], float] | None]:
    with ThreadPoolExecutor(workers, thread_name_prefix="photos") as pool:
        try:
            # Only names wait in the queue; a photo's bytes are read by the thread that is about to use them.
            faces = pool.map(lambda name: _embed(embed_photo, read, name), names)
            yield from track(faces, "embedding photos", total=len(names), unit="photo")
        finally:
            # Otherwise an error, or Ctrl-C, would be heard of only after all the other photos.
            pool.shutdown(wait=False, cancel_futures=True)


def _embed(
    embed_photo: EmbedPhoto, read: Callable[[str], bytes], name: str
) -> tuple[NDArray[np.float32], float] | None:
    data = read(name)
    try:
        embedded = embed_photo(data)
        face = central_face(embedded.faces, embedded.width, embedded.height)
    except (FaceNotFound, FaceTooSmall, InvalidImage):
        return None
    vector = np.asarray(face.embedding, np.float32)
    length = float(np.linalg.norm(vector))
    if not abs(length - 1) < 1e-3:
        raise ValueError(f"the embedding of {name} has length {length}, not 1")
    return vector, face.feature_norm
