"""What many tests share: the real default bundle, opened once, and real photos out of installed packages."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from service.engine import Engine, load_engine
from service.recognition.recognizer import Recognizer
from service.runtime.bundle import Bundle, open_bundle
from service.settings import Settings

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


def package_folder(name: str) -> Path:
    """Where an installed package lies; it is not imported for it."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        pytest.fail(f"Package {name!r} is not installed.", pytrace=False)
    return Path(next(iter(spec.submodule_search_locations)))
