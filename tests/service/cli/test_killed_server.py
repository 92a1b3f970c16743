"""The real server killed with SIGKILL in the middle of enrolments and deletions: what it answered holds.

``LIKENESS_TEST_KILLS`` sets how often it is killed.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from service.engine import Engine

KILLS = int(os.environ.get("LIKENESS_TEST_KILLS", "3"))
CLIENTS = 3


@dataclass
class Believed:
    """What one client was told: vectors of persons that are enrolled, persons that are gone, one that may be either."""

    enrolled: dict[str, list[float]] = field(default_factory=dict)
    gone: dict[str, list[float]] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)


@contextmanager
def served(data_dir: Path, folder: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    bundle = str(data_dir / "bundles" / "open")
    command = [sys.executable, "-m", "service.cli.main", "serve", "--bundle", bundle, "--data-dir", str(folder)]
    process = subprocess.Popen([*command, "--port", str(port)], stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None, "the server did not come up"
            assert time.monotonic() < deadline
            try:
                if httpx2.get(f"{url}/health/ready").status_code == 200:
                    break
            except httpx2.TransportError:
                time.sleep(0.05)
        yield url, process
    finally:
        process.kill()
        process.wait()


def unit(rng: np.random.Generator) -> list[float]:
    vector = rng.normal(size=128)
    listed: list[float] = (vector / np.linalg.norm(vector)).tolist()
    return listed


def work(url: str, contract: str, believed: Believed, name: str, seed: int) -> None:
    """Enrol and delete until the server is gone."""
    rng = np.random.default_rng(seed)
    with httpx2.Client(base_url=url, timeout=20) as client:
        for number in range(100_000):
            person = f"{name}-{seed}-{number}"
            try:
                if believed.enrolled and rng.random() < 0.3:
                    person = str(rng.choice(sorted(believed.enrolled)))
                    vector = believed.enrolled.pop(person)
                    believed.unknown.add(person)
                    assert client.delete(f"/galleries/g/persons/{person}").status_code == 204
                    believed.gone[person] = vector
                else:
                    vector = unit(rng)
                    believed.unknown.add(person)
                    assert client.put(f"/galleries/g/persons/{person}").status_code == 201
                    body = {"embeddings": [{"embedding": vector}], "embedding_contract": contract}
                    assert client.post(f"/galleries/g/persons/{person}/faces", json=body).status_code == 201
                    believed.enrolled[person] = vector
                believed.unknown.discard(person)
            except httpx2.TransportError:
                return


def first(url: str, contract: str, vector: list[float]) -> dict[str, Any] | None:
    body = {"embedding": vector, "embedding_contract": contract, "threshold": 0.99, "candidates": "above_threshold"}
    [probe] = httpx2.post(f"{url}/galleries/g/search", json=body).json()["probes"]
    return probe["candidates"][0] if probe["candidates"] else None


def test_nothing_answered_is_lost_and_nothing_deleted_comes_back(
    data_dir: Path, tmp_path: Path, engine: Engine
) -> None:
    contract = engine.card.embedding_contract
    believed = [Believed() for _ in range(CLIENTS)]
    rng = np.random.default_rng(int.from_bytes(os.urandom(4), "big"))
    answered = 0
    for kill in range(KILLS + 1):
        with served(data_dir, tmp_path) as (url, process):
            assert httpx2.put(f"{url}/galleries/g").status_code in (200, 201)
            for told in believed:
                for person, vector in told.enrolled.items():
                    found = first(url, contract, vector)
                    assert found is not None, f"{person} is lost after kill {kill}"
                    assert found["person_id"] == person
                    faces = httpx2.get(f"{url}/galleries/g/persons/{person}/faces").json()["faces"]
                    assert len(faces) == 1
                for person, vector in told.gone.items():
                    assert first(url, contract, vector) is None, f"{person} is back after kill {kill}"
                    assert httpx2.get(f"{url}/galleries/g/persons/{person}").status_code == 404
            answered = sum(len(told.enrolled) + len(told.gone) for told in believed)
            if kill == KILLS:
                break
            clients = [
                threading.Thread(target=work, args=(url, contract, told, f"c{i}", kill * CLIENTS + i))
                for i, told in enumerate(believed)
            ]
            for client in clients:
                client.start()
            time.sleep(float(rng.uniform(0.3, 1.2)))
            process.send_signal(signal.SIGKILL)
            for client in clients:
                client.join()
    assert answered > 10 * KILLS
