"""A small tree in the form of LFW, and a recognizer whose embeddings are real functions of the pixels."""

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.errors import FaceNotFound, InvalidImage
from service.evaluation.photos import EmbeddedFace, EmbeddedPhoto, EmbedPhoto

PERSONS, PHOTOS, FOLDS, PER_FOLD = 10, 5, 5, 8
SIDE = 64

BLANK = "P_03/P_03_0002.jpg"
GARBAGE = "P_07/P_07_0001.jpg"


@pytest.fixture
def lfw_tree(tmp_path: Path) -> tuple[Path, Path]:
    """(images, pairs file): 80 pairs in 5 folds; one photo is plain grey, another is no image."""
    rng = np.random.default_rng(11)
    images = tmp_path / "images"
    for person in range(PERSONS):
        pattern = rng.normal(0, 30, (8, 8, 3))
        for number in range(1, PHOTOS + 1):
            path = images / photo(person, number)
            path.parent.mkdir(parents=True, exist_ok=True)
            # Strong noise, so that some pairs are decided wrongly.
            pixels = np.kron(128 + pattern + rng.normal(0, 55, (8, 8, 3)), np.ones((8, 8, 1)))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=95)
    Image.new("RGB", (SIDE, SIDE), "grey").save(images / BLANK)
    (images / GARBAGE).write_bytes(b"not a photo")
    pairs_file = tmp_path / "pairs.txt"
    pairs_file.write_text(pairs_text(rng))
    return images, pairs_file


@pytest.fixture
def embed_photo() -> EmbedPhoto:
    """Finds a decoy in a corner, always the same one, and the face in the middle."""
    return embed


def photo(person: int, number: int) -> str:
    return f"P_{person:02d}/P_{person:02d}_{number:04d}.jpg"


def pairs_text(rng: np.random.Generator) -> str:
    lines = [f"{FOLDS}\t{PER_FOLD}", "P_03\t1\t2", "P_07\t1\t3"]  # both have an unusable photo
    for fold in range(FOLDS):
        for _ in range(PER_FOLD - 2 * (fold == 0)):
            first, second = rng.choice(PHOTOS, 2, replace=False) + 1
            lines.append(f"P_{rng.integers(PERSONS):02d}\t{first}\t{second}")
        for _ in range(PER_FOLD):
            (a, b), (i, j) = rng.choice(PERSONS, 2, replace=False), rng.integers(1, PHOTOS + 1, 2)
            lines.append(f"P_{a:02d}\t{i}\tP_{b:02d}\t{j}")
    return "\n".join(lines) + "\n"


def embed(data: bytes, /) -> EmbeddedPhoto:
    try:
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float32)
    except OSError as error:
        raise InvalidImage("not an image") from error
    if pixels.std() < 3:
        raise FaceNotFound("nothing to see")
    vector = pixels.reshape(8, 8, 8, 8, 3).mean(axis=(1, 3)).ravel()
    decoy = EmbeddedFace((1, 1, 21, 21), unit(np.arange(len(vector), dtype=np.float32)))
    face = EmbeddedFace((20, 18, 44, 48), unit(vector - vector.mean()))
    return EmbeddedPhoto(SIDE, SIDE, [decoy, face])


def unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    return vector / np.linalg.norm(vector)
