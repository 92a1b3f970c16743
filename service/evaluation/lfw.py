"""The protocol of Labeled Faces in the Wild: which pairs are compared, which face of a photo, what is kept.

Source: Huang, Ramesh, Berg, Learned-Miller, "Labeled Faces in the Wild", technical report 07-49, University
of Massachusetts, Amherst, 2007. The photos are embedded by a callable that the composition root brings, so
that what is measured is the recognizer that serves.
"""

import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.errors import FaceNotFound, FaceTooSmall, InvalidImage, InvalidRequest
from service.progress import track

# A name becomes a part of a path, so it may not lead out of the images folder.
NAME = re.compile(r"[^\s/\\.][^\s/\\]*")


@dataclass(frozen=True)
class Pair:
    """Two photos to compare, as paths relative to the images folder; ``fold`` counts from 0."""

    first: str
    second: str
    genuine: bool
    fold: int


@dataclass(frozen=True, eq=False)
class EmbeddedFace:
    """``box`` (x1, y1, x2, y2) in pixels of the photo; ``embedding`` (d,) float32 of unit length."""

    box: tuple[float, float, float, float]
    embedding: NDArray[np.float32]


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
class LfwResult:
    """What running the protocol gave; every figure is derived from it.

    ``similarity`` (n,) float64 belongs to ``pairs``: a cosine, or ``-inf`` where either photo has no face.
    ``photos`` are distinct and sorted; ``detected`` (p,) bool and ``embeddings`` (p, d) float32 belong to
    them, with a row of zeros where nothing was detected. ``seconds`` is the time that embedding took.
    """

    pairs: tuple[Pair, ...]
    similarity: NDArray[np.float64]
    photos: tuple[str, ...]
    detected: NDArray[np.bool_]
    embeddings: NDArray[np.float32]
    pairs_file: Path
    pairs_sha256: str
    seconds: float


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of ``pairs.txt`` (View 2), or of ``pairsDevTrain.txt`` and ``pairsDevTest.txt`` (View 1).

    The first line says how many folds there are and how many pairs of each kind a fold has; a single number
    is the latter, for one fold. Each fold lists its matched pairs, ``Name i j``, then its mismatched ones,
    ``NameA i NameB j``.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the pairs file {path} cannot be read: {error}") from error
    folds, per_fold = _read_header(path, lines[0] if lines else "")
    body = [(number, line) for number, line in enumerate(lines[1:], start=2) if line.strip()]
    if len(body) != 2 * folds * per_fold:
        raise InvalidRequest(
            f"{path}, line 1: {lines[0]!r} announces {2 * folds * per_fold} pairs, but {len(body)} follow; "
            "the file is cut off or not one of LFW's pairs files"
        )
    return [
        _read_pair(path, number, line, genuine=k // per_fold % 2 == 0, fold=k // (2 * per_fold))
        for k, (number, line) in enumerate(body)
    ]


def central_face(faces: Sequence[EmbeddedFace], width: int, height: int) -> EmbeddedFace:
    """The face that LFW's label means: the one nearest to the centre of the photo.

    The distance is that of the box's centre in units of the square root of its area, so that of two faces
    equally far off the larger is taken. The first one, among equals.
    """
    if not faces:
        raise FaceNotFound("no face was detected")

    def off_centre(face: EmbeddedFace) -> float:
        x1, y1, x2, y2 = face.box
        area = (x2 - x1) * (y2 - y1)
        distance = float(np.hypot((x1 + x2 - width) / 2, (y1 + y2 - height) / 2))
        return distance / float(np.sqrt(area)) if area > 0 else float("inf")

    return min(faces, key=off_centre)


def evaluate_lfw(embed_photo: EmbedPhoto, images: Path, pairs_file: Path, workers: int) -> LfwResult:
    """Embed each photo of the protocol once, in ``workers`` threads, and compare its pairs.

    A photo without a usable face, or that cannot be decoded, is kept as undetected: leaving its pairs out
    would flatter the system. A photo that is missing is an error: the protocol would be another one.
    """
    if workers < 1:
        raise InvalidRequest(f"{workers} workers cannot do anything; give 1 or more")
    pairs = tuple(read_pairs(pairs_file))
    photos = tuple(sorted({photo for pair in pairs for photo in (pair.first, pair.second)}))
    _require_photos(images, photos)
    start = time.perf_counter()
    vectors = list(_embed_all(embed_photo, images, photos, workers))
    seconds = time.perf_counter() - start
    found = [vector for vector in vectors if vector is not None]
    if not found:
        raise FaceNotFound(f"no face was detected in any of the {len(photos)} photos in {images}")
    empty = np.zeros_like(found[0])
    embeddings = np.stack([empty if vector is None else vector for vector in vectors])
    detected = np.array([vector is not None for vector in vectors])
    return LfwResult(
        pairs,
        _similarities(pairs, photos, embeddings, detected),
        photos,
        detected,
        embeddings,
        pairs_file,
        hashlib.sha256(pairs_file.read_bytes()).hexdigest(),
        seconds,
    )


def _embed_all(
    embed_photo: EmbedPhoto, images: Path, photos: Sequence[str], workers: int
) -> Iterator[NDArray[np.float32] | None]:
    with ThreadPoolExecutor(workers, thread_name_prefix="lfw") as pool:
        try:
            # Only names wait in the queue; a photo's bytes are read by the thread that is about to use them.
            vectors = pool.map(lambda photo: _embed(embed_photo, images, photo), photos)
            yield from track(vectors, "embedding photos", total=len(photos), unit="photo")
        finally:
            # Otherwise an error, or Ctrl-C, would be heard of only after all the other photos.
            pool.shutdown(wait=False, cancel_futures=True)


def _embed(embed_photo: EmbedPhoto, images: Path, photo: str) -> NDArray[np.float32] | None:
    try:
        data = (images / photo).read_bytes()
    except OSError as error:
        raise InvalidRequest(f"the photo {photo} in {images} cannot be read: {error}") from error
    try:
        embedded = embed_photo(data)
        face = central_face(embedded.faces, embedded.width, embedded.height)
    except (FaceNotFound, FaceTooSmall, InvalidImage):
        return None
    vector = np.asarray(face.embedding, np.float32)
    length = float(np.linalg.norm(vector))
    if not abs(length - 1) < 1e-3:
        raise ValueError(f"the embedding of {photo} has length {length}, not 1")
    return vector


def _similarities(
    pairs: Sequence[Pair], photos: Sequence[str], embeddings: NDArray[np.float32], detected: NDArray[np.bool_]
) -> NDArray[np.float64]:
    row_of = {photo: row for row, photo in enumerate(photos)}
    first = np.array([row_of[pair.first] for pair in pairs])
    second = np.array([row_of[pair.second] for pair in pairs])
    cosines = np.einsum("nd,nd->n", embeddings[first], embeddings[second], dtype=np.float64)
    return np.where(detected[first] & detected[second], cosines, -np.inf)


def _require_photos(images: Path, photos: Sequence[str]) -> None:
    missing = [photo for photo in photos if not (images / photo).is_file()]
    if missing:
        raise InvalidRequest(
            f"{len(missing)} of the {len(photos)} photos are not in {images}, the first being {missing[0]}; "
            "give the folder that has one folder per person",
            {"missing": len(missing), "first_missing": missing[0], "images": str(images)},
        )


def _read_header(path: Path, line: str) -> tuple[int, int]:
    numbers = [int(field) for field in line.split() if field.isascii() and field.isdigit()]
    if len(numbers) != len(line.split()) or len(numbers) not in (1, 2) or 0 in numbers:
        raise InvalidRequest(f"{path}, line 1: {line!r} is not the number of folds and of pairs of each kind per fold")
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (1, numbers[0])


def _read_pair(path: Path, number: int, line: str, genuine: bool, fold: int) -> Pair:
    fields = line.split()
    form = "Name i j" if genuine else "NameA i NameB j"
    if len(fields) != len(form.split()):
        kind = "matched" if genuine else "mismatched"
        raise InvalidRequest(f"{path}, line {number}: {line!r} is not a {kind} pair, {form!r}")
    if genuine:
        fields.insert(2, fields[0])
    for name, index in (fields[:2], fields[2:]):
        if not NAME.fullmatch(name) or not re.fullmatch(r"[0-9]{1,4}", index):
            raise InvalidRequest(f"{path}, line {number}: {line!r} does not name photos as {form!r}")
    first, second = (f"{name}/{name}_{int(index):04d}.jpg" for name, index in (fields[:2], fields[2:]))
    return Pair(first, second, genuine, fold)
