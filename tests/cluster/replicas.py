"""Replicas of the service: processes that are killed, and started again by whoever keeps them."""

import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx2

_CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("LIKENESS_")}
START_PATIENCE_S = 120.0
# As a supervisor does, which does not know why it ended.
PAUSE_S = 0.5


class Replica:
    """``likeness serve``, kept running until the end: when it has ended it is started again.

    Attributes:
        name: for the eyes.
        url: the same all the time.
        ready: whether it has said so since it was started.
        ends: how often it ended by itself though it had been ready; never, if all is well.
        failed_starts: how often it ended before: PostgreSQL was away, for one.
    """

    def __init__(self, name: str, bundle: Path, folder: Path, settings: Mapping[str, str]) -> None:
        self.name, self.port = name, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.ready, self.ends, self.failed_starts = threading.Event(), 0, 0
        self._command = [
            *(sys.executable, "-m", "service.cli.main", "serve", "--bundle", str(bundle)),
            *("--data-dir", str(folder / name), "--port", str(self.port), "--drain-s", "0"),
        ]
        self.log = folder / f"{name}.log"
        self._settings = {**_CLEAN, **settings}
        self._over, self._killed = threading.Event(), False
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper = threading.Thread(target=self._keep, name=name)

    def start(self) -> None:
        self._keeper.start()

    def kill(self) -> None:
        """SIGKILL, whatever it is doing."""
        self.ready.clear()
        self._killed = True
        if self._process is not None:
            self._process.kill()

    def end(self) -> None:
        self._over.set()
        self.kill()
        self._keeper.join()

    def _keep(self) -> None:
        while not self._over.is_set():
            self._killed = False
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=self._settings)
            if self._over.is_set():
                self._process.kill()
            self._wait_until_ready()
            self._process.wait()
            if not self._killed and not self._over.is_set():
                self.ends += self.ready.is_set()
                self.failed_starts += not self.ready.is_set()
            self.ready.clear()
            self._over.wait(PAUSE_S)

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        with httpx2.Client(timeout=5) as http:
            while self._process.poll() is None and not self._killed:
                try:
                    if http.get(f"{self.url}/v1/health/ready").status_code == 200:
                        self.ready.set()
                        return
                except httpx2.TransportError:
                    pass
                time.sleep(0.1)


class Cluster:
    """All replicas, on one database.

    Attributes:
        settings: the environment that they share, and that commands beside them need.
    """

    def __init__(self, size: int, bundle: Path, folder: Path, settings: Mapping[str, str]) -> None:
        self.folder, self.settings = folder, dict(settings)
        self.replicas = [Replica(f"replica-{n + 1}", bundle, folder, settings) for n in range(size)]

    def up(self) -> list[Replica]:
        """Those that a balancer would send to."""
        return [replica for replica in self.replicas if replica.ready.is_set()]

    def wait_until_ready(self) -> None:
        """All of them."""
        deadline = time.monotonic() + START_PATIENCE_S
        for replica in self.replicas:
            if not replica.ready.wait(max(0.0, deadline - time.monotonic())):
                raise SystemExit(f"{replica.name} did not get ready:\n{replica.log.read_text()[-4000:]}")

    def kill_one(self, rng: random.Random) -> bool:
        """One of those that are up, if it is not the last; whether there was one."""
        up = self.up()
        if len(up) < 2:
            return False
        rng.choice(up).kill()
        return True

    def likeness(self, *arguments: str) -> dict[str, object]:
        """A command beside the replicas: the object that it printed."""
        command = [sys.executable, "-m", "service.cli.main", *arguments, "--json"]
        folder = ["--data-dir", str(self.folder / "command")]
        environment = {**_CLEAN, **self.settings}
        done = subprocess.run([*command, *folder], capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise SystemExit(f"likeness {' '.join(arguments)}: {done.stdout}{done.stderr}")
        printed: dict[str, object] = json.loads(done.stdout)
        return printed


@contextmanager
def running(size: int, bundle: Path, folder: Path, settings: Mapping[str, str]) -> Iterator[Cluster]:
    """Replicas that start together on an empty database, as soon as the block begins."""
    cluster = Cluster(size, bundle, folder, settings)
    try:
        for replica in cluster.replicas:
            replica.start()
        yield cluster
    finally:
        for replica in cluster.replicas:
            if replica._keeper.is_alive():
                replica.end()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
