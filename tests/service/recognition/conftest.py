"""Real photos, decoded, and the faces found in them."""

from pathlib import Path

import pytest

from service.recognition.recognizer import Recognizer
from service.recognition.types import Face, Image


@pytest.fixture(scope="session")
def portrait(recognizer: Recognizer, astronaut: bytes) -> Image:
    """One woman, frontal, 512 × 512."""
    return recognizer.decode(astronaut)


@pytest.fixture(scope="session")
def portrait_face(recognizer: Recognizer, portrait: Image) -> Face:
    [face] = recognizer.detect(portrait)
    return face


@pytest.fixture(scope="session")
def group(recognizer: Recognizer, group_photo: bytes) -> Image:
    """Six people, 1280 × 886."""
    return recognizer.decode(group_photo)


@pytest.fixture(scope="session")
def group_faces(recognizer: Recognizer, group: Image) -> list[Face]:
    return recognizer.detect(group)


@pytest.fixture(scope="session")
def coffee(recognizer: Recognizer, skimage_data: Path) -> Image:
    """A photo without a face, 600 × 400."""
    return recognizer.decode((skimage_data / "coffee.png").read_bytes())
