"""Photos out of installed packages, as the tests have them."""

from importlib.util import find_spec
from pathlib import Path


def sample_portrait() -> bytes:
    """A PNG of one woman."""
    return (_folder("skimage") / "data" / "astronaut.png").read_bytes()


def sample_group() -> bytes:
    """A JPEG of six other people."""
    return (_folder("insightface") / "data" / "images" / "t1.jpg").read_bytes()


def _folder(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))
