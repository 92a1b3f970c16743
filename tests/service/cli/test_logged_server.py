"""The log of the real server: one line a request, that names it and nobody else."""

import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx2

from service.cli.main import main

Served = Callable[..., AbstractContextManager[Any]]


def ask(url: str, photo: bytes, headers: dict[str, str]) -> None:
    with httpx2.Client(base_url=f"{url}/v1", headers=headers) as http:
        person = "/galleries/g-secret/persons/p-secret"
        http.put("/galleries/g-secret", json={"name": "n-secret"})
        http.put(person, json={"name": "n-secret", "metadata": {"badge": "m-secret"}})
        assert http.post(f"{person}/faces", files=[("images", photo)]).status_code == 201
        found = http.post("/galleries/g-secret/search", files={"image": photo}, headers={"x-request-id": "r-search"})
        assert found.json()["probes"][0]["decision"] == "identified"
        refused = http.post("/detect", files={"image": b"no photo"}, headers={"x-request-id": "r-refused"})
        assert (refused.headers["x-request-id"], refused.json()["request_id"]) == ("r-refused", "r-refused")
        assert http.get("/galleries/g-secret/nothing").status_code == 404


def test_json_lines(served: Served, data_dir: Path, tmp_path: Path, astronaut: bytes, capsys: Any) -> None:
    assert main(["keys", "create", "--data-dir", str(tmp_path), "--json"]) == 0
    key = json.loads(capsys.readouterr().out)
    with served(data_dir, tmp_path, "--drain-s", "0", "--log-format", "json", auth=True) as server:
        ask(server.url, astronaut, {"authorization": f"Bearer {key['key']}"})
        assert httpx2.get(f"{server.url}/v1/info").status_code == 401
        server.process.terminate()
        server.process.wait(20)
        log = server.log
    lines = [json.loads(line) for line in log.splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    requests = {line["request_id"]: line for line in lines if line["logger"] == "likeness.request"}
    search = requests["r-search"]
    assert (search["method"], search["route"], search["status"]) == ("POST", "/v1/galleries/{gallery}/search", 200)
    assert search["key"] == key["id"]
    assert 0 < search["duration_ms"] < 60_000
    assert (requests["r-refused"]["route"], requests["r-refused"]["status"]) == ("/v1/detect", 415)
    routes = [(line["route"], line["status"], line["key"]) for line in requests.values()]
    assert ("/v1/info", 401, None) in routes
    assert ("none", 404, None) in routes
    assert not [route for route, _, _ in routes if "health" in route], "those who watch are not told"
    assert not re.findall(r"[gpnm]-secret", log)
    assert key["key"] not in log


def test_plain_lines(served: Served, data_dir: Path, tmp_path: Path, astronaut: bytes) -> None:
    with served(data_dir, tmp_path, "--drain-s", "0") as server:
        ask(server.url, astronaut, {})
        server.process.terminate()
        server.process.wait(20)
        log = server.log
    [line] = [line for line in log.splitlines() if "r-search" in line]
    words = r"INFO request r-search: POST /v1/galleries/\{gallery\}/search 200 in [\d.]+ ms, key no-auth"
    assert re.fullmatch(words, line)
    assert log.count("r-refused") == 1, "uvicorn's own line of each request would be another"
    assert not re.findall(r"[gpnm]-secret", log)
