"""The service on PostgreSQL, which is stopped, and killed under load: nothing that was answered is lost."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest

from tests.postgres_server import PostgresServer, postgres_running
from tests.served import Served, serving


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_running() as server:
        yield server


@pytest.fixture
def served(data_dir: Path, tmp_path: Path, postgres: PostgresServer) -> Iterator[Served]:
    with postgres.database() as name:
        with serving(data_dir, tmp_path, environment={"LIKENESS_DATABASE_URL": postgres.url(name)}) as server:
            yield server
            assert postgres.password not in server.log
        assert not (tmp_path / "gallery").exists()


def vector(person: str) -> list[float]:
    found = np.random.default_rng(list(person.encode())).standard_normal(128)
    return [float(number) for number in found / np.linalg.norm(found)]


def enrol(client: httpx2.Client, person: str, contract: str) -> httpx2.Response:
    answer = client.put(f"/v1/galleries/g/persons/{person}")
    if answer.status_code > 201:
        return answer
    body = {"embeddings": [{"embedding": vector(person)}], "embedding_contract": contract}
    return client.post(f"/v1/galleries/g/persons/{person}/faces", json=body)


def await_ready(url: str) -> None:
    deadline = time.monotonic() + 30
    while httpx2.get(f"{url}/v1/health/ready").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_it_says_so_and_waits_for_a_database_that_is_away(served: Served, postgres: PostgresServer) -> None:
    with httpx2.Client(base_url=served.url) as client:
        info = client.get("/v1/info").json()
        assert info["gallery_backend"] == "postgresql"
        assert client.put("/v1/galleries/g").status_code == 201
        assert enrol(client, "ann", info["embedding_contract"]).status_code == 201
        postgres.stop()
        try:
            for path in ("/v1/galleries", "/v1/galleries/g/persons/ann", "/v1/health/ready"):
                deadline = time.monotonic() + 5
                while (answer := client.get(path)).status_code == 200:
                    # The last answer about readiness may be a second old.
                    assert time.monotonic() < deadline
                assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1"), path
                assert answer.json()["error"]["code"] == "not_ready"
                assert "password" not in answer.text
            assert client.put("/v1/galleries/g/persons/bob").status_code == 503
            assert client.get("/v1/health/live").status_code == 200
        finally:
            postgres.start()
        await_ready(served.url)
        assert client.get("/v1/galleries/g/persons/ann").json()["faces"] == 1
        assert enrol(client, "bob", info["embedding_contract"]).status_code == 201


def test_nothing_answered_is_lost_when_postgres_is_killed_under_load(served: Served, postgres: PostgresServer) -> None:
    httpx2.put(f"{served.url}/v1/galleries/g")
    contract = httpx2.get(f"{served.url}/v1/info").json()["embedding_contract"]
    ended = threading.Event()
    answered: list[str] = []
    refusals: list[tuple[int, str | None]] = []

    def work(thread: int) -> None:
        with httpx2.Client(base_url=served.url, timeout=30) as client:
            number = 0
            while not ended.is_set():
                person = f"p{thread}-{(number := number + 1)}"
                answer = enrol(client, person, contract)
                if answer.status_code == 201:
                    answered.append(person)
                else:
                    refusals.append((answer.status_code, answer.headers.get("Retry-After")))
                    time.sleep(0.05)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    counts = []
    for _ in range(2):
        time.sleep(0.7)
        postgres.kill()
        time.sleep(0.3)
        counts.append(len(answered))
        postgres.start()
        await_ready(served.url)
    time.sleep(0.7)
    ended.set()
    for thread in threads:
        thread.join()
    assert set(refusals) == {(503, "1")}
    assert 0 < counts[0] < counts[1] < len(answered)
    with httpx2.Client(base_url=served.url) as client:
        for person in answered:
            assert client.get(f"/v1/galleries/g/persons/{person}").json()["faces"] == 1, person
        for person in answered[:: max(1, len(answered) // 20)]:
            body = {"embedding": vector(person), "embedding_contract": contract, "threshold": 0.9, "top_k": 1}
            (probe,) = client.post("/v1/galleries/g/search", json=body).json()["probes"]
            assert [candidate["person_id"] for candidate in probe["candidates"]] == [person]
