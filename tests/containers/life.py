"""What a container of an image does from its first start to its end; every claim of the documentation is asked."""

import io
import json
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
from PIL import Image, ImageOps

from tests.conftest import package_folder
from tests.containers.container import UID, Container
from tests.served import free_port

PATIENCE_S = 240.0
# Long enough to ask something meanwhile, also on a machine that has much else to do.
DRAIN_S = 5.0
# What a container does not need, and whoever breaks in would like to find.
UNWANTED = ("gcc", "cc", "g++", "make", "curl", "wget", "git")

Rows = list[tuple[str, str]]


def first_life(root: Path, data: Path, config: Mapping[str, Any], given: Mapping[Path, str]) -> Rows:
    """An image without weights: pulled at the first start, there at the second. Two photos, and the end."""
    rows = [("size of the image's files", f"{_megabytes(root):,.0f} MB"), *_checked_image(root, config)]
    assert not list((root / "opt/weights").iterdir()), "weights are in the image"
    container = Container.of(root, data, config, given, network=True)
    port = str(free_port())
    log = data.with_suffix(".log")
    with container.started(log, LIKENESS_PORT=port, LIKENESS_DRAIN_S=f"{DRAIN_S:g}") as process:
        rows.append(("first start, weights pulled, until ready", f"{_ready(container, process, log, port):.1f} s"))
        rows += _checked_process(container, process.pid)
        rows += _checked_service(container, process.pid, port)
        rows.append(
            (f"SIGTERM until the end, {DRAIN_S:g} s of it `drain_s`, exit code 0", f"{_ended(process, port):.1f} s")
        )
    with container.started(log, LIKENESS_PORT=port, LIKENESS_DRAIN_S=f"{DRAIN_S:g}") as process:
        rows.append(("second start until ready", f"{_ready(container, process, log, port):.1f} s"))
        _ended(process, port)
    return rows


def baked_life(root: Path, data: Path, config: Mapping[str, Any], given: Mapping[Path, str]) -> Rows:
    """An image with its weights, in a network of nothing but a loopback interface."""
    assert list((root / "opt/weights/bundles").glob("*/card.json")), "no weights are in the image"
    container = Container.of(root, data, config, given, network=False)
    log = data.with_suffix(".log")
    with container.started(log) as process:
        rows = [("start with BUNDLE=open and no network until ready", f"{_ready(container, process, log):.1f} s")]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
    return rows


def _checked_image(root: Path, config: Mapping[str, Any]) -> Rows:
    assert config["User"] == f"{UID}:{UID}", config
    assert config["Volumes"] == {"/data": {}}, config
    assert config["StopSignal"] == "SIGTERM", config
    assert config["Healthcheck"]["Test"][0] == "CMD", config
    programs = {
        path.name for folder in ("usr/bin", "usr/local/bin", "opt/likeness/bin") for path in (root / folder).iterdir()
    }
    assert not programs & set(UNWANTED), programs & set(UNWANTED)
    packages = next((root / "opt/likeness/lib").glob("python3*")) / "site-packages"
    assert (packages / "service" / "cli").is_dir()
    assert not (packages / "tests").exists()
    assert not list((root / "src").iterdir()) if (root / "src").exists() else True
    writable = [path for path in root.rglob("*") if not path.is_symlink() and path.stat().st_uid == UID]
    assert writable == [root / "data"], writable
    set_uid = [path for path in (root / "opt").rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o6000]
    assert not set_uid, set_uid
    return [("user, volume, health check, no compiler, no tests, nothing writable but /data", "yes")]


def _checked_process(container: Container, pid: int) -> Rows:
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert status["Uid"].split() == [str(UID)] * 4, status["Uid"]
    assert {status[name].strip("0\n") for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb", "CapInh")} == {""}, status
    assert status["NoNewPrivs"] == "1", status
    for place in ("/x", "/opt/likeness/x", "/usr/x", "/etc/x"):
        tried = container.run("touch", place, beside=pid)
        assert "Read-only file system" in tried.stderr, tried
    assert container.run("touch", "/data/x", "/tmp/x", beside=pid).returncode == 0
    return [("runs as 10001 without capabilities, root read-only", "yes")]


def _checked_service(container: Container, pid: int, port: str) -> Rows:
    environment = {"LIKENESS_PORT": port}
    health = container.config["Healthcheck"]["Test"][1:]
    assert container.run(*health, beside=pid, **environment).returncode == 0
    assert container.run(*health, beside=pid, LIKENESS_PORT="9").returncode != 0
    url = f"http://127.0.0.1:{port}"
    assert httpx2.get(f"{url}/v1/info").status_code == 401
    assert "<html" in httpx2.get(f"{url}/").raise_for_status().text, "the page's files are not in the image"
    keys = {
        scopes: container.run("likeness", "keys", "create", "--scopes", scopes, beside=pid).stdout.strip()
        for scopes in ("verify", "monitor")
    }
    woman = Image.open(package_folder("skimage") / "data" / "astronaut.png").convert("RGB")
    group = Image.open(package_folder("insightface") / "data" / "images" / "t1.jpg")
    headers = {"authorization": f"Bearer {keys['verify']}"}
    for other, match in ((ImageOps.mirror(woman).resize((300, 300)), True), (group.crop((420, 200, 620, 440)), False)):
        files = {"image_a": _jpeg(woman), "image_b": _jpeg(other)}
        answer = httpx2.post(f"{url}/v1/verify", files=files, headers=headers, timeout=60)
        assert answer.json()["match"] is match, answer.text
    watcher = {"authorization": f"Bearer {keys['monitor']}"}
    assert 'route="/v1/verify"' in httpx2.get(f"{url}/metrics", headers=watcher).text
    assert httpx2.get(f"{url}/v1/galleries", headers=watcher).status_code == 403
    doctor = container.run("likeness", "doctor", "--system", "--json", beside=pid, **environment)
    found = json.loads(doctor.stdout)
    assert found["sound"], found
    with_image = [line for line in container.run("ls", "/data", beside=pid).stdout.split() if line != "x"]
    return [
        ("two photos of one person verified, of two persons not", "yes"),
        ("`likeness doctor --system` inside", "no fault"),
        ("what is in /data", ", ".join(with_image)),
    ]


def _ready(container: Container, process: "subprocess.Popen[bytes]", log: Path, port: str = "8000") -> float:
    """Seconds until the image's own health check says so."""
    start = time.monotonic()
    health = container.config["Healthcheck"]["Test"][1:]
    while time.monotonic() < start + PATIENCE_S:
        assert process.poll() is None, log.read_text()
        if container.run(*health, beside=process.pid, LIKENESS_PORT=port).returncode == 0:
            return time.monotonic() - start
        time.sleep(0.1)
    raise AssertionError(f"not ready after {PATIENCE_S:.0f} s: {log.read_text()}")


def _ended(process: "subprocess.Popen[bytes]", port: str) -> float:
    """Seconds from SIGTERM to the end; while it drains it is not ready and goes on answering."""
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert httpx2.get(f"http://127.0.0.1:{port}/v1/health/ready").status_code == 503
    assert httpx2.get(f"http://127.0.0.1:{port}/v1/health/live").status_code == 200
    assert process.wait(60) == 0
    return time.monotonic() - start


def _jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=92)
    return out.getvalue()


def _megabytes(root: Path) -> float:
    return sum(path.lstat().st_blocks * 512 for path in root.rglob("*")) / 1e6
