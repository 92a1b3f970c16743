"""What many tests share: the real default bundle, a real running service, real photos out of installed packages."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from service.engine import Engine, load_engine
from service.postgres.database import open_postgres
from service.recognition.recognizer import Recognizer
from service.runtime.bundle import Bundle, open_bundle
from service.settings import Settings
from tests.postgres_server import PostgresServer, postgres_running
from tests.served import Served, serving

ROOT = Path(__file__).resolve().parents[1]
LFW = ROOT.parent / "shared" / "data" / "lfw"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The data folder, with the default bundle in it."""
    folder = Path(os.environ.get("LIKENESS_TEST_DATA_DIR") or ROOT / "data").resolve()
    card = folder / "bundles" / "open" / "card.json"
    if not card.is_file():
        pytest.fail(f"{card} is not there: run `make test`, or `likeness pull open`.", pytrace=False)
    return folder


@pytest.fixture(scope="session")
def bundle(data_dir: Path) -> Bundle:
    return open_bundle(data_dir / "bundles" / "open")


@pytest.fixture(scope="session")
def engine(data_dir: Path) -> Engine:
    return load_engine(Settings(data_dir=data_dir))


@pytest.fixture(scope="session")
def recognizer(engine: Engine) -> Recognizer:
    return engine.recognizer


@pytest.fixture(scope="session")
def group_photo() -> bytes:
    """A JPEG of six people, 1280 × 886."""
    return (package_folder("insightface") / "data" / "images" / "t1.jpg").read_bytes()


@pytest.fixture(scope="session")
def skimage_data() -> Path:
    """The folder with scikit-image's photos."""
    return package_folder("skimage") / "data"


@pytest.fixture(scope="session")
def astronaut(skimage_data: Path) -> bytes:
    """A PNG of one woman, frontal, 512 × 512; her face is 90 pixels wide."""
    return (skimage_data / "astronaut.png").read_bytes()


@pytest.fixture(scope="session")
def lfw() -> Path:
    """The folder with LFW's ``images`` and ``pairs.txt``."""
    if not (LFW / "images").is_dir():
        pytest.skip(f"Labeled Faces in the Wild is not at {LFW}.")
    return LFW


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


@dataclass(frozen=True)
class Running:
    """A running service that asks for access keys, one that may do everything, and the data folder."""

    url: str
    key: str
    folder: Path


@pytest.fixture(scope="session")
def served() -> Callable[..., AbstractContextManager[Served]]:
    """``with served(data_dir, folder, *flags) as server: ...``, see ``tests.served.serving``."""
    return serving


@pytest.fixture(scope="session")
def running(
    data_dir: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Running]:
    """A service that many tests share: each has galleries of its own."""
    folder = tmp_path_factory.mktemp("running")
    environment = {}
    if os.environ.get("LIKENESS_TEST_BACKENDS") == "postgresql":
        server, template = request.getfixturevalue("postgres_server"), request.getfixturevalue("migrated")
        database = request.getfixturevalue("databases").enter_context(server.database(template))
        environment["LIKENESS_DATABASE_URL"] = server.url(database)
    likeness = [sys.executable, "-m", "service.cli.main"]
    made = subprocess.run(
        [*likeness, "keys", "create", "--name", "first", "--data-dir", str(folder), "--json"],
        check=True,
        capture_output=True,
        env=os.environ | environment,
    )
    with serving(data_dir, folder, auth=True, environment=environment) as server:
        yield Running(server.url, json.loads(made.stdout)["key"], folder)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """PostgreSQL with pgvector, shared by all tests that do not stop it: each has a database of its own."""
    with postgres_running(durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def migrated(postgres_server: PostgresServer) -> Iterator[str]:
    """The name of a database with the tables of the service and nothing in them, to be copied."""
    with postgres_server.database() as name:
        open_postgres(postgres_server.url(name)).dispose()
        yield name


@pytest.fixture(scope="session")
def databases(postgres_server: PostgresServer) -> Iterator[ExitStack]:  # noqa: ARG001
    """Databases that are to be there as long as the server."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, migrated: str) -> Iterator[str]:
    """A new database with the tables of the service and nothing in them, for LIKENESS_DATABASE_URL."""
    with postgres_server.database(template=migrated) as name:
        yield postgres_server.url(name)


def package_folder(name: str) -> Path:
    """Where an installed package lies; it is not imported for it."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        pytest.fail(f"Package {name!r} is not installed.", pytrace=False)
    return Path(next(iter(spec.submodule_search_locations)))


def _jpeg(image: Image.Image, quality: int = 92) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()
