"""What the running service is made of: no training framework, no export, nothing that reads published networks."""

import json
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    """Top-level modules in a process that has loaded the whole service."""
    program = (
        "import service.engine, service.api.app, service.cli.main, json, sys; print(json.dumps(list(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


def test_the_service_is_loaded(loaded: set[str]) -> None:
    assert {"service", "onnxruntime", "cv2", "PIL", "fastapi"} <= loaded


@pytest.mark.parametrize("name", ["torch", "models", "onnx", "insightface", "export", "tests"])
def test_the_service_does_not_need(loaded: set[str], name: str) -> None:
    assert name not in loaded
