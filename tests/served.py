"""The real server: in a process of its own, or in this one where it needs settings that no flag has."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO

import httpx2
import pytest
import uvicorn

from service.api.app import create_app
from service.engine import Engine
from service.gallery.gallery import Galleries
from service.gallery.store import Store
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


@contextmanager
def serving(
    data_dir: Path,
    folder: Path,
    *flags: str,
    under: Sequence[str] = (),
    auth: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Served]:
    """Serve the bundle of ``data_dir`` with ``folder`` as the data folder, until the end of the block.

    A folder of its own: a service that runs on the usual one has it locked. The port is a free one, and the block
    begins when ``/v1/health/ready`` says 200. At the end the process is killed, unless it has ended before.

    Args:
        under: a command that becomes the server, as ``nsenter`` does.
        auth: whether access keys are asked for, as they are without ``--no-auth``.
        environment: the LIKENESS_ variables it has; none of ours are passed on.
    """
    bundle = str(data_dir / "bundles" / "open")
    command = [*under, sys.executable, "-m", "service.cli.main", "serve", "--bundle", bundle, "--data-dir", str(folder)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LIKENESS_")}
    clean |= environment or {}
    if not auth:
        flags = (*flags, "--no-auth")
    # A file and not a pipe: a pipe that nobody reads fills up, and then the server stands still.
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*command, "--port", "0", *flags], stdout=subprocess.DEVNULL, stderr=log, env=clean)
        try:
            yield Served(_wait_until_ready(process, log), process, log)
        finally:
            _end(process)


@contextmanager
def listening(engine: Engine, folder: Path, settings: Settings) -> Iterator[str]:
    """The application in this process, so that it can have any settings; reached over the network all the same."""
    store = Store.open(folder / "gallery.db")
    galleries = Galleries(store, engine.card.embedding_contract, engine.card.contract.dimension)
    server = uvicorn.Server(uvicorn.Config(create_app(engine, settings, galleries), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    while httpx2.get(f"{url}/v1/health/ready").status_code == 503:
        time.sleep(0.01)
    try:
        yield url
    finally:
        server.should_exit = True
        thread.join()
        store.close()


@contextmanager
def answering(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server that is not this service, on a free loopback port: its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def free_port() -> int:
    """A loopback port that nobody listened on a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _end(process: "subprocess.Popen[bytes]") -> None:
    """At once; but where what has been run is counted, the process is left the time to write that down."""
    if "COVERAGE_PROCESS_CONFIG" in os.environ:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
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
