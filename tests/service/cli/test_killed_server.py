"""The real server killed with SIGKILL while clients write to it: what it answered holds, and nothing is half there.

``LIKENESS_TEST_KILLS`` and ``LIKENESS_TEST_WRITES`` set how many kills and answered writes there are at least;
``LIKENESS_TEST_SEED`` repeats the clients' choices and the moments of the kills.
"""

import os
import random
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from service.engine import Engine

KILLS = int(os.environ.get("LIKENESS_TEST_KILLS", "5"))
WRITES = int(os.environ.get("LIKENESS_TEST_WRITES", "250"))
SEED = int(os.environ.get("LIKENESS_TEST_SEED") or int.from_bytes(os.urandom(4), "big"))
CLIENTS = 4
# Persons of whom templates are searched for after a kill; after the last one it is all of them.
SAMPLE = 60


@dataclass
class Client:
    """One client, and what it was told.

    Attributes:
        faces: for each of its persons how many faces there may be: None for no such person; two values where a write
            was not answered.
        answered: its writes that were answered.
    """

    name: str
    rng: random.Random
    faces: dict[str, set[int | None]] = field(default_factory=dict)
    answered: int = 0

    def work(self, url: str, contract: str) -> None:
        """Enrol and delete until the server is gone."""
        with httpx2.Client(base_url=f"{url}/v1/galleries/g/persons", timeout=20) as http:
            enrolled = [person for person, counts in self.faces.items() if counts == {1}]
            try:
                while True:
                    if enrolled and self.rng.random() < 0.25:
                        person = enrolled.pop(self.rng.randrange(len(enrolled)))
                        self._write(person, None, 204, partial(http.delete, f"/{person}"))
                        continue
                    person = f"{self.name}-{len(self.faces)}"
                    self._write(person, 0, 201, partial(http.put, f"/{person}"))
                    body = {"embeddings": [{"embedding": vector_of(person)}], "embedding_contract": contract}
                    self._write(person, 1, 201, partial(http.post, f"/{person}/faces", json=body))
                    enrolled.append(person)
            except httpx2.TransportError:
                return

    def _write(self, person: str, faces: int | None, status: int, send: Callable[[], httpx2.Response]) -> None:
        before = self.faces.get(person, {None})
        self.faces[person] = before | {faces}
        answer = send()
        assert answer.status_code == status, answer.text
        self.faces[person] = {faces}
        self.answered += 1


def vector_of(person: str) -> list[float]:
    """The template of a person, known from the name alone."""
    vector = np.random.default_rng(list(person.encode())).normal(size=128)
    listed: list[float] = (vector / np.linalg.norm(vector)).tolist()
    return listed


def check_lists(http: httpx2.Client, clients: Iterable[Client]) -> None:
    """Whoever was answered is listed with the right number of faces, and nobody else is. Settles the unknown ones."""
    listed: dict[str, int] = {}
    cursor: str | None = ""
    while cursor is not None:
        page = http.get("/g/persons", params={"limit": 1000, **({"cursor": cursor} if cursor else {})}).json()
        listed |= {person["id"]: person["faces"] for person in page["persons"]}
        cursor = page["cursor"]
    known = {person: counts for client in clients for person, counts in client.faces.items()}
    wrong = {p: (counts, listed.get(p)) for p, counts in known.items() if listed.get(p) not in counts}
    assert wrong == {}, "person: (faces as answered, faces listed)"
    assert set(listed) <= set(known)
    gallery = http.get("/g").json()
    assert (gallery["persons"], gallery["faces"]) == (len(listed), sum(listed.values()))
    for client in clients:
        client.faces = {person: {listed.get(person)} for person in client.faces}


def check_search(http: httpx2.Client, contract: str, person: str, counts: set[int | None]) -> None:
    """A search with the template of a person finds the person, or nobody where it is not enrolled (any more)."""
    body = {"embedding": vector_of(person), "embedding_contract": contract, "threshold": 0.99}
    [probe] = http.post("/g/search", json={**body, "candidates": "above_threshold"}).json()["probes"]
    assert [candidate["person_id"] for candidate in probe["candidates"]] == ([person] if counts == {1} else [])


def check(url: str, contract: str, clients: list[Client], sample: int | None, rng: random.Random) -> None:
    """All that is listed, and the searches of ``sample`` persons (None: all of them)."""
    with httpx2.Client(base_url=f"{url}/v1/galleries", timeout=20) as http, ThreadPoolExecutor(CLIENTS) as pool:
        check_lists(http, clients)
        known = [item for client in clients for item in client.faces.items()]
        picked = known if sample is None else rng.sample(known, min(sample, len(known)))
        list(pool.map(lambda item: check_search(http, contract, *item), picked))


def work_and_kill(server: Any, contract: str, clients: list[Client], writes: int, after_s: float) -> None:
    """Let the clients work; kill the server ``after_s`` seconds after the answer number ``writes``."""
    until = sum(client.answered for client in clients) + writes
    with ThreadPoolExecutor(len(clients)) as pool:
        working = [pool.submit(client.work, server.url, contract) for client in clients]
        while sum(client.answered for client in clients) < until and not any(future.done() for future in working):
            time.sleep(0.002)
        time.sleep(after_s)
        server.process.kill()
        for future in working:
            future.result()


def test_nothing_answered_is_lost_and_nothing_deleted_comes_back(
    served: Callable[..., Any], data_dir: Path, tmp_path: Path, engine: Engine
) -> None:
    print(f"LIKENESS_TEST_SEED={SEED}")
    began = time.monotonic()
    rng = random.Random(SEED)
    contract = engine.card.embedding_contract
    clients = [Client(f"c{n}", random.Random(f"{SEED} {n}")) for n in range(CLIENTS)]
    kills = answered = 0
    while kills < KILLS or answered < WRITES:
        with served(data_dir, tmp_path) as server:
            if kills == 0:
                assert httpx2.put(f"{server.url}/v1/galleries/g").status_code == 201
            check(server.url, contract, clients, SAMPLE, rng)
            work_and_kill(server, contract, clients, rng.randint(1, 2 * WRITES // KILLS), rng.uniform(0, 0.03))
        kills += 1
        answered = sum(client.answered for client in clients)
    with served(data_dir, tmp_path) as server:
        check(server.url, contract, clients, None, rng)
    print(f"{kills} kills, {answered} answered writes, 0 lost, {time.monotonic() - began:.0f} s")
