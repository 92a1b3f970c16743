"""The server as a user has it: with access keys, an audit log, and persons whose time runs out."""

import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service.cli.main import EXIT_UNAVAILABLE, EXIT_UNUSABLE, EXIT_WRONG_USE, main


def run(capsys: pytest.CaptureFixture[str], *command: str) -> Any:
    """What a command printed as JSON."""
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_keys_open_the_running_service_until_they_are_revoked(
    served: Callable[..., Any], data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], astronaut: bytes
) -> None:
    folder = ("--data-dir", str(tmp_path))
    first = run(capsys, "keys", "create", "--name", "first", *folder)
    assert main(["keys", "create", "--if-none", *folder]) == 0
    assert capsys.readouterr().out == ""
    with served(data_dir, tmp_path, "--drain-s", "0", auth=True) as server:
        url = f"{server.url}/v1"
        assert httpx2.get(f"{url}/health/ready").status_code == 200
        assert httpx2.get(f"{url}/info").status_code == 401
        made = run(
            capsys, "keys", "create", "--scopes", "verify,search", "--gallery", "staff", "--expires", "7", *folder
        )
        assert made["galleries"] == ["staff"]
        with httpx2.Client(headers={"authorization": f"Bearer {made['key']}"}) as tenant:
            assert tenant.get(f"{url}/info").status_code == 200
            assert tenant.post(f"{url}/detect", files={"image": astronaut}).status_code == 200
            assert tenant.post(f"{url}/embed", files={"image": astronaut}).status_code == 403
            anew = run(capsys, "keys", "rotate", made["id"], "--overlap", "0", *folder)
            assert tenant.get(f"{url}/info").status_code == 401
            tenant.headers["authorization"] = f"Bearer {anew['key']}"
            assert tenant.get(f"{url}/info").status_code == 200
            run(capsys, "keys", "revoke", anew["id"], *folder)
            assert tenant.get(f"{url}/info").status_code == 401
        # The commands that call the service take the key, and say what it lacks.
        (tmp_path / "a.png").write_bytes(astronaut)
        (tmp_path / "photos" / "ann").mkdir(parents=True)
        (tmp_path / "photos" / "ann" / "a.png").write_bytes(astronaut)
        enrol = ["enrol", "staff", str(tmp_path / "photos"), "--rejected", str(tmp_path / "rejected.csv")]
        assert main([*enrol, "--url", server.url]) == EXIT_UNUSABLE
        assert "access key" in capsys.readouterr().err
        key = ["--url", server.url, "--key", first["key"]]
        assert main([*enrol, *key]) == 0
        assert main(["search", "staff", str(tmp_path / "a.png"), *key]) == 0
        listed = run(capsys, "keys", "list", *folder)["keys"]
        assert [shown["name"] for shown in listed] == ["first", None]
        assert not any("digest" in shown or "key" in shown for shown in listed)
        deleted = httpx2.delete(
            f"{url}/galleries/staff/persons/ann", headers={"authorization": f"Bearer {first['key']}"}
        )
        receipt = deleted.headers["x-erasure-receipt"]
        assert run(capsys, "audit", "verify", "--receipt", receipt, *folder)["lines"] > 5
        limits = Path(f"/proc/{server.process.pid}/limits").read_text()
        assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE), "a core would hold templates and keys"
        server.process.terminate()
        server.process.wait(20)
        assert not any(secret in server.log for secret in (first["key"], made["key"], 'embedding"'))
    lines = (tmp_path / "audit" / "audit.log").read_text().splitlines(keepends=True)
    assert first["key"] not in "".join(lines)
    (tmp_path / "audit" / "audit.log").write_text("".join(lines[:2] + lines[3:]))
    assert main(["audit", "verify", *folder]) == EXIT_UNAVAILABLE
    assert "Line 3" in capsys.readouterr().err
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert first["key"].encode() not in everything


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org"])
def test_without_keys_it_listens_on_loopback_only(
    data_dir: Path, tmp_path: Path, host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = str(data_dir / "bundles" / "open")
    command = ["serve", "--bundle", bundle, "--data-dir", str(tmp_path), "--no-auth", "--host", host]
    assert main(command) == EXIT_WRONG_USE
    assert "loopback" in capsys.readouterr().err


def test_the_running_service_erases_those_whose_time_is_up(
    served: Callable[..., Any], data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "likeness.toml").write_text("retention_check_s = 0.2\n")
    monkeypatch.chdir(tmp_path)
    with served(data_dir, tmp_path) as server, httpx2.Client(base_url=f"{server.url}/v1/galleries") as http:
        assert http.put("/g", json={"retention_days": 30}).json()["retention_days"] == 30
        soon = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
        http.put("/g/persons/ann", json={"expires_at": soon})
        http.put("/g/persons/bob")
        assert http.get("/g").json()["persons"] == 2
        deadline = time.monotonic() + 20
        while http.get("/g/persons/ann").status_code == 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert http.get("/g/persons/bob").status_code == 200


@pytest.mark.parametrize(
    "wrong",
    [
        ["create", "--scopes", "verify,everything"],
        ["create", "--scopes", ""],
        ["create", "--gallery", "a/b"],
        ["revoke", "nobody"],
        ["rotate", "nobody"],
        ["rotate", "nobody", "--overlap", "-1"],
    ],
)
def test_wrong_use_makes_no_key(tmp_path: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", *wrong, "--data-dir", str(tmp_path)]) == EXIT_WRONG_USE
    assert capsys.readouterr().out == ""
    assert main(["keys", "list", "--data-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == ""
