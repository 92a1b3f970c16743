"""Aligned crops of a folder of photos, cut as the service cuts them, kept in one file beside a manifest.

``CACHE/crops.npy`` is uint8 (n, size, size, 3) RGB; ``CACHE/manifest.json`` says which photos they are of and all that
decides over their pixels: the detector, the alignment, the recognizer's options, and the sha256 of every
photo. Crops are used only where all of that is still so; otherwise they are made anew.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.engine import Engine
from service.errors import FaceNotFound, InvalidImage
from service.evaluation.photos import central_face
from service.progress import track
from service.recognition.align import align
from service.recognition.select import select_faces
from service.runtime.card import Alignment

CROPS_FILE = "crops.npy"
MANIFEST_FILE = "manifest.json"
VERSION = 1  # to be raised where detection or alignment give other crops than before
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, eq=False)
class Crops:
    """The crops of a folder.

    Attributes:
        pixels: uint8 (n, size, size, 3) RGB, mapped from the file.
        names: n paths relative to the folder, ``Person/photo.jpg``, sorted.
        without_face: photos that gave no crop, because they have no usable face or cannot be decoded.
        alignment: how they were cut.
        digest: sha256 of the manifest.
    """

    pixels: NDArray[np.uint8]
    names: tuple[str, ...]
    without_face: tuple[str, ...]
    alignment: Alignment
    digest: str


def photos_of(folder: Path, min_photos: int = 1) -> list[str]:
    """The photos of a folder with one sub-folder for each person, ``Person/photo.jpg``, sorted.

    Args:
        min_photos: persons with fewer are left out.

    Raises:
        ValueError: there are none.
    """
    names = []
    for person in sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []:
        own = sorted(f"{person.name}/{path.name}" for path in person.iterdir() if path.suffix.lower() in SUFFIXES)
        names += own if len(own) >= min_photos else []
    if not names:
        raise ValueError(
            f"{folder} has no sub-folder with {min_photos} photos or more ({', '.join(sorted(SUFFIXES))}); "
            "give a folder with one sub-folder for each person"
        )
    return names


def cached_crops(folder: Path, names: Sequence[str], cache: Path, engine: Engine, size: int, workers: int) -> Crops:
    """The crops of the photos ``names`` of ``folder``, from the cache where it is valid, else made and kept there.

    Of several faces in a photo the central one counts, as in the evaluation.

    Args:
        cache: a folder, made if it is not there.
        engine: the bundle whose detector and alignment are used.
        size: side of the crops in pixels; the bundle's alignment is scaled to it.
        workers: photos at once.

    Raises:
        ValueError: not one photo has a usable face.
    """
    alignment = scaled(engine.card.contract.alignment, size)
    paths = [folder / name for name in names]
    digests = list(_threaded(lambda path: hashlib.sha256(path.read_bytes()).hexdigest(), paths, workers, "digests"))
    made_by = {
        "version": VERSION,
        "detector": engine.card.detector.sha256,
        "alignment": alignment.model_dump(mode="json"),
        "options": dataclasses.asdict(engine.recognizer.options),
        "photos": dict(zip(names, digests, strict=True)),
    }
    if (known := _read(cache, made_by, alignment)) is not None:
        return known
    cache.mkdir(parents=True, exist_ok=True)
    (cache / MANIFEST_FILE).unlink(missing_ok=True)
    temporary = cache / f".{CROPS_FILE}.{os.getpid()}.tmp"
    try:
        # Without a face there is no row; what that leaves over is the end of the file.
        pixels = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(names), size, size, 3))
        crops = _threaded(lambda path: crop_of(engine, path.read_bytes(), alignment), paths, workers, "aligning photos")
        without_face = []
        for number, (name, crop) in enumerate(zip(names, crops, strict=True)):
            if crop is None:
                without_face.append(name)
            else:
                pixels[number - len(without_face)] = crop
        pixels.flush()
        temporary.replace(cache / CROPS_FILE)
    finally:
        temporary.unlink(missing_ok=True)
    if len(without_face) == len(names):
        raise ValueError(f"none of the {len(names)} photos in {folder} has a usable face")
    manifest = json.dumps({"made_by": made_by, "without_face": without_face}, indent=1, ensure_ascii=False)
    # Last, so that there is no manifest of crops that are not all there.
    temporary.write_text(manifest, "utf-8")
    temporary.replace(cache / MANIFEST_FILE)
    made = _read(cache, made_by, alignment)
    if made is None:
        raise ValueError(f"the crops that were just written to {cache} are not there any more")
    return made


def crop_of(engine: Engine, content: bytes, alignment: Alignment) -> NDArray[np.uint8] | None:
    """The crop of an encoded photo's central usable face, uint8 (size, size, 3) RGB; None where there is none."""
    recognizer = engine.recognizer
    try:
        image = recognizer.decode(content)
        faces = select_faces(recognizer.detect(image), "all", recognizer.options.min_face_size)
        face = central_face(faces, image.width, image.height)
    except (FaceNotFound, InvalidImage):
        return None
    return align(image, face.landmarks, alignment.template, alignment.size)


def scaled(alignment: Alignment, size: int) -> Alignment:
    """The same view of the face in ``size`` pixels; pixel centres lie at whole numbers."""
    factor = size / alignment.size
    template = [[(v + 0.5) * factor - 0.5 for v in point] for point in alignment.template]
    return alignment if factor == 1 else Alignment.model_validate({"size": size, "template": template})


def _read(cache: Path, made_by: dict[str, Any], alignment: Alignment) -> Crops | None:
    """The crops in the cache; None where there are none, or they are of something else."""
    try:
        text = (cache / MANIFEST_FILE).read_bytes()
        manifest = json.loads(text)
        pixels = np.load(cache / CROPS_FILE, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    # Through JSON, as lists and tuples are the same there.
    if manifest["made_by"] != json.loads(json.dumps(made_by)) or len(pixels) != len(made_by["photos"]):
        return None
    without_face = set(manifest["without_face"])
    names = tuple(name for name in made_by["photos"] if name not in without_face)
    return Crops(pixels[: len(names)], names, tuple(sorted(without_face)), alignment, hashlib.sha256(text).hexdigest())


def _threaded(work: Callable[[Path], T], paths: Sequence[Path], workers: int, what: str) -> Iterator[T]:
    with ThreadPoolExecutor(workers, thread_name_prefix="crops") as pool:
        try:
            yield from track(pool.map(work, paths), what, total=len(paths), unit="photo")
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
