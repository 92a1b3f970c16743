"""The files of the cluster, read by the programs that they are for, where those are installed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "command",
    [
        ["haproxy", "-c", "-f", "deploy/cluster/haproxy.cfg"],
        ["docker-compose", "--profile", "cluster", "config", "--quiet"],
        ["promtool", "check", "config", "--syntax-only", "deploy/monitoring/prometheus.yml"],
    ],
    ids=lambda command: command[0],
)
def test_a_file_is_taken_by_the_program_that_reads_it(command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not here.")
    # Some of them are written in Python, and have packages of their own.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
