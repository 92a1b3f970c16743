"""The real application around the real bundle, and photos of one person and of two."""

import io
import time
from collections.abc import Iterator

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from service.api.app import create_app
from service.engine import Engine
from service.settings import Settings


@pytest.fixture(scope="session")
def client(engine: Engine) -> Iterator[TestClient]:
    with TestClient(create_app(engine, Settings()), raise_server_exceptions=False) as client:
        while client.get("/v1/health/ready").status_code == 503:
            time.sleep(0.01)
        yield client


@pytest.fixture(scope="session")
def portrait(astronaut: bytes) -> bytes:
    """One woman, as JPEG."""
    return _jpeg(Image.open(io.BytesIO(astronaut)).convert("RGB"))


@pytest.fixture(scope="session")
def portrait_again(portrait: bytes) -> bytes:
    """The same woman in another picture of the photo: mirrored, smaller, darker, softer, tilted, badly compressed."""
    photo = ImageOps.mirror(Image.open(io.BytesIO(portrait))).resize((300, 300), Image.Resampling.LANCZOS)
    photo = ImageEnhance.Brightness(photo).enhance(0.7).rotate(8, Image.Resampling.BICUBIC, fillcolor=(90, 90, 90))
    return _jpeg(photo.filter(ImageFilter.GaussianBlur(0.6)), quality=50)


@pytest.fixture(scope="session")
def group_portraits(engine: Engine, group_photo: bytes) -> list[bytes]:
    """Each person of the group photo alone."""
    image = engine.recognizer.decode(group_photo)
    cuts = []
    for face in engine.recognizer.detect(image):
        x, y = (face.box[:2] + face.box[2:]) / 2
        half = 0.75 * float(face.box[3] - face.box[1])
        box = (int(x - half), int(y - half), int(x + half), int(y + half))
        cuts.append(_jpeg(Image.fromarray(image.pixels).crop(box)))
    return cuts


@pytest.fixture(scope="session")
def scenery() -> bytes:
    """A photo without a face: noise in large blocks."""
    blocks = np.random.default_rng(5).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    return _jpeg(Image.fromarray(blocks).resize((640, 480), Image.Resampling.BICUBIC))


def _jpeg(image: Image.Image, quality: int = 92) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()
