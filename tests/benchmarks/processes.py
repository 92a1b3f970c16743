"""Servers in processes of their own, for benchmarks."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

_LISTENING = re.compile(r"http://127\.0\.0\.1:\d+")
_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Server:
    """A server that answers at ``url``."""

    url: str
    pid: int

    def resident_bytes(self) -> int:
        """Of memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu_seconds(self) -> float:
        """Of all its threads so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def server(command: Sequence[str], ready: str) -> Iterator[Server]:
    """Run a command that logs its address on standard error, as uvicorn does, until the end of the block.

    Args:
        ready: a path that answers 200 when it can be used.
    """
    with tempfile.NamedTemporaryFile() as log:
        process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=log)
        try:
            yield Server(_address(process, Path(log.name), ready), process.pid)
        finally:
            process.terminate()
            process.wait()


@contextmanager
def likeness(data_dir: Path, bundle: str, *flags: str) -> Iterator[Server]:
    """``likeness serve`` with an empty data folder; the bundle and its plan are those of ``data_dir``."""
    with tempfile.TemporaryDirectory() as folder:
        if (data_dir / "tuning").is_dir():
            (Path(folder) / "tuning").symlink_to((data_dir / "tuning").resolve())
        place = str((data_dir / "bundles" / bundle).resolve())
        command = [
            "-m",
            "service.cli.main",
            "serve",
            "--bundle",
            place,
            "--data-dir",
            folder,
            "--port",
            "0",
            "--no-auth",
            *flags,
        ]
        with server(command, "/v1/health/ready") as running:
            yield running


def _address(process: "subprocess.Popen[bytes]", log: Path, ready: str) -> str:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        if found := _LISTENING.search(log.read_text(errors="replace")):
            try:
                if requests.get(found[0] + ready, timeout=5).status_code == 200:
                    return found[0]
            except requests.ConnectionError:
                pass
        time.sleep(0.1)
    raise SystemExit(f"The server did not come up:\n{log.read_text(errors='replace')}")
