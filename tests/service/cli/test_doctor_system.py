"""``likeness doctor --system`` on a sound install, and on ones with a fault: real folders, bundles and processes."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from service.cli.main import EXIT_UNAVAILABLE, main
from service.security.access_key_file import AccessKeyFile
from service.security.access_keys import Rights

needs_no_gpu = pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has an NVIDIA driver")


@pytest.fixture
def install(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A data folder with a bundle of its own, and an access key."""
    folder = tmp_path / "data"
    real = (data_dir / "bundles" / "open").resolve()
    shutil.copytree(real, folder / "bundles" / real.name)
    (folder / "bundles" / "open").symlink_to(real.name)
    assert main(["keys", "create", "--data-dir", str(folder)]) == 0
    capsys.readouterr()
    return folder


@pytest.fixture
def doctor(install: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Asks for what is wrong: ``check -> finding``, the worst one of each check."""

    def ask(*flags: str, folder: Path = install, faults: bool) -> dict[str, Any]:
        code = main(["doctor", "--system", "--json", "--data-dir", str(folder), "--port", "0", *flags])
        told = json.loads(capsys.readouterr().out)
        assert code == int(faults), told
        assert told["sound"] is not faults
        worst = sorted(told["findings"], key=lambda finding: ["ok", "warn", "fail"].index(finding["state"]))
        assert all(finding["advice"] or "." in finding["found"] for finding in worst if finding["state"] == "fail")
        return {finding["check"]: finding for finding in worst}

    return ask


def test_a_sound_install_has_no_fault(doctor: Callable[..., dict[str, Any]], install: Path) -> None:
    found = doctor(faults=False)
    assert {name for name, finding in found.items() if finding["state"] == "fail"} == set()
    for check in ("python", "packages", "wheels", "modules", "provider", "bundle", "networks", "permissions", "disk"):
        assert found[check]["state"] == "ok", found[check]
    assert found["access keys"] == {"check": "access keys", "state": "ok", "found": "1 of 1 can be used", "advice": ""}
    assert str(install) in found["master key"]["found"]
    assert "CPUExecutionProvider" in found["networks"]["found"]


def test_it_is_said_in_words(install: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--system", "--data-dir", str(install / "nowhere"), "--port", "0"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("fail data folder  ") and "nowhere is not there" in line for line in lines), lines
    assert any("likeness pull makes it" in line for line in lines)


def test_a_changed_network_and_a_changed_card(doctor: Callable[..., dict[str, Any]], install: Path) -> None:
    card = install / "bundles" / "open" / "card.json"
    text = card.read_text()
    card.write_text(text.replace('"commercial_use": true', '"commercial_use":  true'))
    found = doctor(faults=True)
    assert "was changed after the bundle was made" in found["bundle"]["found"]
    assert found["networks"]["state"] == "ok"
    card.write_text(text)
    network = next((install / "bundles" / "open").glob("embedder*.onnx"))
    content = bytearray(network.read_bytes())
    content[len(content) // 2] ^= 1
    network.write_bytes(content)
    found = doctor(faults=True)
    assert "sha256" in found["bundle"]["found"]
    assert "--force" in found["bundle"]["advice"]
    assert found["networks"]["state"] == "fail"


def test_no_bundle(doctor: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    found = doctor(folder=tmp_path / "empty", faults=True)
    assert "There is no bundle 'open'" in found["bundle"]["found"]
    assert found["access keys"]["state"] == "warn"


@needs_no_gpu
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_gpu_that_is_asked_for_and_absent(doctor: Callable[..., dict[str, Any]], provider: str) -> None:
    found = doctor("--provider", provider, faults=True)
    assert "no NVIDIA driver" in found["GPU"]["found"]
    assert f"{provider} needs onnxruntime-gpu" in found["wheels"]["found"]
    assert "make setup DEVICE=gpu" in found["wheels"]["advice"]
    assert found["provider"]["state"] == found["networks"]["state"] == "fail"


def test_keys_that_others_may_read_or_that_do_not_open(doctor: Callable[..., dict[str, Any]], install: Path) -> None:
    master = install / "keys" / "master.key"
    master.chmod(0o644)
    found = doctor(faults=True)
    assert f"{master} (mode 644)" in found["permissions"]["found"]
    master.chmod(0o600)
    master.write_text("A" * 43 + "=\n")
    assert doctor(faults=True)["master key"]["state"] == "fail"
    master.unlink()
    assert "is missing" in doctor(faults=True)["master key"]["found"]


def test_access_keys_that_have_expired(doctor: Callable[..., dict[str, Any]], install: Path) -> None:
    keys = AccessKeyFile(install / "keys", b"another pepper")
    for key in keys.all():
        keys.revoke(key.id)
    keys.create(Rights(frozenset({"verify"}), expires_at=datetime.now(UTC) - timedelta(days=1)))
    found = doctor(faults=False)
    assert found["access keys"]["state"] == "warn"
    assert found["access keys"]["found"] == "all 1 have expired"


def test_a_port_that_is_taken(doctor: Callable[..., dict[str, Any]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        found = doctor("--port", str(port), faults=True)
        assert f"port {port}" in found["port"]["found"]


def test_a_clock_that_runs_behind(doctor: Callable[..., dict[str, Any]], install: Path) -> None:
    ahead = datetime.now().timestamp() + 7200
    os.utime(install / "bundles", (ahead, ahead))
    assert "2.0 hours later" in doctor(faults=False)["clock"]["found"]


def test_settings_that_cannot_be_read(doctor: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIKENESS_MAX_WAITING", "many")
    assert "max_waiting" in doctor(faults=True)["settings"]["found"]


def test_two_wheels_over_each_other_and_one_that_does_not_load(install: Path, tmp_path: Path) -> None:
    both, broken = tmp_path / "both", tmp_path / "broken"
    for name in ("onnxruntime-gpu", "faiss-gpu"):
        folder = both / f"{name.replace('-', '_')}-1.0.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (broken / "onnxruntime").mkdir(parents=True)
    (broken / "onnxruntime" / "__init__.py").write_text("raise ImportError('libsomething.so.1 is missing')\n")

    def likeness(first: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(first), *filter(None, [os.environ.get("PYTHONPATH")])])
        clean = {name: value for name, value in os.environ.items() if not name.startswith("LIKENESS_")}
        command = [sys.executable, "-m", "service.cli.main", *arguments, "--data-dir", str(install)]
        environment = {**clean, "PYTHONPATH": path}
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)

    told = likeness(both, "doctor", "--system", "--port", "0")
    assert told.returncode == 1
    assert "fail wheels       onnxruntime and onnxruntime-gpu are both installed" in told.stdout, told
    assert "fail wheels       faiss-cpu and faiss-gpu are both installed" in told.stdout
    told = likeness(broken, "doctor", "--system", "--port", "0")
    assert told.returncode == 1, told
    assert "onnxruntime: libsomething.so.1 is missing" in told.stdout
    assert "ok   settings" in told.stdout
    refused = likeness(broken, "serve")
    assert refused.returncode == EXIT_UNAVAILABLE
    assert "libsomething.so.1 is missing. `likeness doctor --system` says" in refused.stderr
