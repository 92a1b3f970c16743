"""The install: two sets of packages that never mix, and lock files that name no host."""

import os
import re
import shutil
import subprocess
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("cpu", "gpu", "dev", "otel")
# Modules that several packages own.
SHARED_MODULES = ("onnxruntime", "faiss", "cv2")
RIVALS = [
    {"onnxruntime", "onnxruntime-gpu"},
    {"faiss-cpu", "faiss-gpu"},
    {"opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"},
]

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    # What an outer `make test` was given must not reach this one.
    plain = {key: value for key, value in os.environ.items() if key not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=ROOT, env=plain, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment whose Python does nothing but write down that it was called."""
    folder = tmp_path / "venv"
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n')
    python.chmod(0o755)
    return folder


def calls(venv: Path) -> str:
    called = venv.parent / "called"
    return called.read_text() if called.exists() else ""


@needs_make
@pytest.mark.parametrize(("present", "wanted"), [("cpu", "gpu"), ("gpu", "cpu")])
def test_an_environment_of_one_set_does_not_take_the_other(venv: Path, present: str, wanted: str) -> None:
    (venv / f".installed-{present}").touch()
    done = make("setup", f"DEVICE={wanted}", f"VENV={venv}")
    assert done.returncode != 0
    assert f"{venv} holds the {present} set; the two cannot share one environment. Run make clean" in done.stderr
    assert calls(venv) == ""
    assert sorted(path.name for path in venv.iterdir()) == [f".installed-{present}", "bin"]


@needs_make
@pytest.mark.parametrize("device", ["tpu", "GPU", "dev"])
def test_a_device_that_is_neither_is_refused_by_name(venv: Path, device: str) -> None:
    done = make("setup", f"DEVICE={device}", f"VENV={venv}")
    assert done.returncode != 0
    assert calls(venv) == ""
    assert [path.name for path in venv.iterdir()] == ["bin"]
    assert f"DEVICE is cpu or gpu, not {device}." in done.stderr


@needs_make
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_an_empty_environment_gets_the_set_that_was_asked_for_and_nothing_more(venv: Path, device: str) -> None:
    done = make("setup", f"DEVICE={device}", f"VENV={venv}")
    assert done.returncode == 0, done.stderr
    first, second = calls(venv).splitlines()
    assert "--no-deps --require-hashes" in first
    assert first.endswith(f"--requirement requirements/{device}.txt")
    assert "--no-deps" in second
    assert second.endswith("--editable .")
    assert (venv / f".installed-{device}").exists()
    # The second time there is nothing to do.
    assert make("setup", f"DEVICE={device}", f"VENV={venv}").returncode == 0
    assert len(calls(venv).splitlines()) == 2


def test_the_image_is_built_as_make_installs() -> None:
    # Nothing that a lock does not hold may come in, above all insightface's own requirements.
    lines = [line for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines() if "pip install" in line]
    assert len(lines) == 4
    assert all("--no-deps" in line for line in lines)
    assert [set(re.findall(r"requirements/(\w+)\.txt", line)) for line in lines if "--require-hashes" in line] == [
        {"cpu", "otel"},
        {"gpu", "otel"},
    ]


def test_without_no_deps_insightface_would_bring_the_cpu_onnxruntime_over_the_gpu_one() -> None:
    # Why all this: should it ever change, the sets can be installed like any other packages.
    required = {re.split(r"[^A-Za-z0-9_-]", entry)[0].lower() for entry in distribution("insightface").requires or ()}
    assert "onnxruntime" in required
    assert "insightface" in pins("gpu")
    assert "onnxruntime" not in pins("gpu")


@pytest.mark.parametrize("module", SHARED_MODULES)
def test_in_the_environment_of_these_tests_one_package_owns_the_module(module: str) -> None:
    # Made by make, with insightface and all that it requires in it.
    assert len(set(packages_distributions()[module])) == 1, packages_distributions()[module]


def pins(lock: str) -> dict[str, set[str]]:
    """The versions of every package in a lock file; several where they depend on Python's."""
    found: dict[str, set[str]] = {}
    for entry in requirements(lock):
        name, version = entry.split()[0].split("==")
        found.setdefault(name, set()).add(version)
    return found


def requirements(lock: str) -> list[str]:
    """One line for each, continuation lines joined."""
    text = (ROOT / "requirements" / f"{lock}.txt").read_text(encoding="utf-8")
    lines = re.sub(r"\s*\\\n\s*", " ", text).splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_host_and_pins_everything_by_digest(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text(encoding="utf-8")
    assert not re.search(r"://|@|\b(index|find-links|trusted-host|proxy)\b|\.(org|com|io|net)\b", text)
    assert len(requirements(lock)) > 15
    for entry in requirements(lock):
        assert re.fullmatch(r"[a-z0-9-]+==[\w.!+]+( ; [^#\\]+?)?( --hash=sha256:[0-9a-f]{64})+", entry), entry


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("rivals", RIVALS, ids=["onnxruntime", "faiss", "opencv"])
def test_a_lock_never_holds_two_packages_that_own_one_module(lock: str, rivals: set[str]) -> None:
    held = rivals & set(pins(lock))
    assert len(held) == (1 if lock in ("cpu", "gpu") else 0), held


def test_each_set_holds_its_own() -> None:
    assert {"onnxruntime", "faiss-cpu", "opencv-python-headless"} <= set(pins("cpu"))
    assert {"onnxruntime-gpu", "faiss-gpu", "opencv-python-headless"} <= set(pins("gpu"))
    assert not [name for name in pins("cpu") if name.startswith("nvidia-")]


@pytest.mark.parametrize(("one", "other"), [("cpu", "gpu"), ("cpu", "dev"), ("gpu", "dev")])
def test_what_two_locks_share_they_hold_at_one_version(one: str, other: str) -> None:
    # dev.txt is installed over a set, and would otherwise change it.
    left, right = pins(one), pins(other)
    shared = set(left) & set(right)
    assert shared
    assert {name: left[name] for name in shared} == {name: right[name] for name in shared}


def test_all_that_pyproject_requires_is_locked() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    assert block is not None
    names = set(re.findall(r'^\s*"([a-z0-9-]+)', block[1], re.MULTILINE))
    assert {"numpy", "fastapi", "onnx"} <= names
    for lock in ("cpu", "gpu"):
        assert names <= set(pins(lock)), names - set(pins(lock))
