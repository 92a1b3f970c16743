"""HAProxy with the configuration of ``deploy/cluster``, where it is installed, in front of replicas of this machine."""

import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2

from tests.cluster.replicas import free_port

CONFIGURATION = Path(__file__).resolve().parents[2] / "deploy" / "cluster" / "haproxy.cfg"


@contextmanager
def balancing(urls: Sequence[str], folder: Path) -> Iterator[str | None]:
    """Its address; None where there is no HAProxy. All but the addresses is as it is delivered."""
    program = shutil.which("haproxy")
    if program is None:
        print("HAProxy is not installed here: clients choose among the replicas themselves.")
        yield None
        return
    port = free_port()
    servers = "\n".join(f"    server replica{n} {url.removeprefix('http://')}" for n, url in enumerate(urls, 1))
    text = CONFIGURATION.read_text(encoding="utf-8").replace("bind :8000", f"bind 127.0.0.1:{port}")
    text, count = re.subn(r"^ *server-template .*$", servers, text, flags=re.M)
    assert count == 1
    path = folder / "haproxy.cfg"
    path.write_text(text, encoding="utf-8")
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen([program, "-db", "-f", str(path)], stdout=log, stderr=log)
        try:
            _wait(f"http://127.0.0.1:{port}", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def _wait(url: str, process: "subprocess.Popen[bytes]") -> None:
    while process.poll() is None:
        try:
            if httpx2.get(f"{url}/v1/health/ready", timeout=5).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit("HAProxy ended.")
