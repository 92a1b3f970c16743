"""The image's health check, run as Docker runs it, against a service that is ready and against none."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from tests.conftest import Running

DOCKERFILE = (Path(__file__).resolve().parents[2] / "Dockerfile").read_text(encoding="utf-8")
NOBODY = "http://127.0.0.1:1"


def healthy(port: int) -> bool:
    """What the check says, in an environment whose proxy nobody is."""
    found = re.search(r"^HEALTHCHECK (?:.*\\\n)*? *CMD (\[.*\])$", DOCKERFILE, re.M)
    assert found
    program, *arguments = json.loads(found[1])
    assert program == "python3"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
        **{"http_proxy": NOBODY, "HTTP_PROXY": NOBODY, "LIKENESS_PORT": str(port)},
    }
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, timeout=30, check=False).returncode == 0


def test_it_says_whether_the_service_is_ready_whatever_proxy_the_environment_names(running: Running) -> None:
    port = urlsplit(running.url).port
    assert port is not None
    assert healthy(port)
    assert not healthy(1)
