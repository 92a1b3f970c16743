"""The real application, in this process and in one of its own, and photos of one person and of two."""

import io
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx2
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from service.api.app import create_app
from service.engine import Engine
from service.settings import Settings

LISTENING = re.compile(r"http://127\.0\.0\.1:\d+")


@dataclass(frozen=True)
class Served:
    """A running ``likeness serve``. ``url`` is ``http://127.0.0.1:port``."""

    url: str
    process: "subprocess.Popen[bytes]"
    _log: IO[bytes]

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return _read(self._log)


@pytest.fixture(scope="session")
def served() -> Callable[..., AbstractContextManager[Served]]:
    """``with served(data_dir, folder, *flags) as server: ...``, see ``_served``."""
    return _served


@contextmanager
def _served(
    data_dir: Path, folder: Path, *flags: str, under: Sequence[str] = (), auth: bool = False
) -> Iterator[Served]:
    """Serve the bundle of ``data_dir`` with ``folder`` as the data folder, until the end of the block.

    A folder of its own: a service that runs on the usual one has it locked. The port is a free one, and the block
    begins when ``/v1/health/ready`` says 200. At the end the process is killed, unless it has ended before.

    Args:
        under: a command that becomes the server, as ``nsenter`` does.
        auth: whether access keys are asked for, as they are without ``--no-auth``.
    """
    bundle = str(data_dir / "bundles" / "open")
    command = [*under, sys.executable, "-m", "service.cli.main", "serve", "--bundle", bundle, "--data-dir", str(folder)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LIKENESS_")}
    if not auth:
        flags = (*flags, "--no-auth")
    # A file and not a pipe: a pipe that nobody reads fills up, and then the server stands still.
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*command, "--port", "0", *flags], stdout=subprocess.DEVNULL, stderr=log, env=clean)
        try:
            yield Served(_wait_until_ready(process, log), process, log)
        finally:
            process.kill()
            process.wait()


def _wait_until_ready(process: "subprocess.Popen[bytes]", log: IO[bytes], patience_s: float = 120) -> str:
    """The address of the server, once it is ready."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server did not come up: {_read(log)}"
        if found := LISTENING.search(_read(log)):
            try:
                if httpx2.get(f"{found[0]}/v1/health/ready").status_code == 200:
                    return found[0]
            except httpx2.TransportError:
                pass
        time.sleep(0.05)
    pytest.fail(f"the server was not ready within {patience_s} s: {_read(log)}")


def _read(log: IO[bytes]) -> str:
    # At a place of its own: the server writes where the shared position of the open file is.
    return os.pread(log.fileno(), 2**24, 0).decode(errors="replace")


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
