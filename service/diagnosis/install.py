"""Python, and the packages in its environment."""

import platform
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version

from service.diagnosis.finding import Finding
from service.runtime.rivals import RIVALS, installed_of

OLDEST = (3, 11)
ANEW = "Make the environment anew: make clean, then make setup DEVICE=cpu or gpu."
# Several may be installed without harm to what runs, until one is upgraded.
_OPENCV = (
    *("opencv-python-headless", "opencv-python"),
    *("opencv-contrib-python-headless", "opencv-contrib-python"),
)
# Those with native code, which may be there and yet not load.
_MODULES = ("numpy", "cv2", "onnxruntime", "faiss", "PIL", "cryptography", "sqlalchemy", "fastapi", "uvicorn")


def python() -> Iterator[Finding]:
    """Old enough."""
    found = f"{platform.python_version()}, {platform.machine()}, {sys.executable}"
    if sys.version_info < OLDEST:
        yield Finding("python", "fail", found, "Python 3.11 or newer is needed: make setup PYTHON=python3.12.")
    else:
        yield Finding("python", "ok", found)


def packages() -> Iterator[Finding]:
    """All that the service needs, in versions that it takes."""
    try:
        needed = requires("likeness") or []
    except PackageNotFoundError:
        yield Finding("packages", "fail", "likeness itself is not installed here", "make setup installs it.")
        return
    from packaging.requirements import Requirement

    wrong = []
    for requirement in map(Requirement, needed):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            have = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
        else:
            if not requirement.specifier.contains(have, prereleases=True):
                wrong.append(f"{requirement.name} is {have}, needed is {requirement.specifier}")
    if wrong:
        yield Finding("packages", "fail", "; ".join(wrong), ANEW)
    else:
        yield Finding("packages", "ok", f"likeness {version('likeness')} and what it needs")


def rivals() -> Iterator[Finding]:
    """Packages that own one module: one of each, and none of them twice."""
    for names in RIVALS:
        found = installed_of(names)
        if len(found) > 1:
            both = f"{' and '.join(found)} are both installed, over each other"
            yield Finding("wheels", "fail", both, ANEW)
        elif not found:
            yield Finding("wheels", "fail", f"none of {', '.join(names)} is installed", ANEW)
        else:
            yield Finding("wheels", "ok", f"{found[0]} {version(found[0])}")
    found = installed_of(_OPENCV)
    if len(found) > 1:
        both = f"{' and '.join(found)} are both installed, over each other"
        yield Finding("wheels", "warn", both, f"Only {_OPENCV[0]} is needed. {ANEW}")


def modules() -> Iterator[Finding]:
    """Whether they load."""
    broken = []
    for name in _MODULES:
        try:
            import_module("service.gallery.faiss_library" if name == "faiss" else name)
        except Exception as error:
            broken.append(f"{name}: {error}")
    if broken:
        yield Finding("modules", "fail", f"cannot be loaded: {'; '.join(broken)}", ANEW)
    else:
        yield Finding("modules", "ok", f"{', '.join(_MODULES)} load")
