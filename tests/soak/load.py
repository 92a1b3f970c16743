"""Clients of a soak, who know what the right answers are, and go on when the service is gone for a while."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx2
import numpy as np

from tests.fuzz.photos import damaged

# What a service in trouble may say instead: later, or no room.
TROUBLE = (429, 503, 507)
NOTHING_WRITTEN = 507
_EXPIRES = "2099-01-01T00:00:00Z"


@dataclass
class Tally:
    """All that was asked and answered. Thread-safe.

    Attributes:
        answers: by call and status; status 0 is a connection that broke.
        wrong: answers that were not right, in words.
    """

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    writes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, call: str, status: int, written: bool = False) -> None:
        with self._lock:
            self.answers[call, status] += 1
            self.writes += written

    def complain(self, words: str) -> None:
        with self._lock:
            self.wrong.append(words)


@dataclass
class Site:
    """Where the clients work.

    Attributes:
        url, key: of the service.
        contract: of its embeddings.
        over: set when they are to stop.
    """

    url: str
    key: str
    contract: str
    photos: list[bytes]
    strangers: list[bytes]
    tally: Tally
    over: threading.Event

    def http(self) -> httpx2.Client:
        return httpx2.Client(base_url=f"{self.url}/v1", timeout=30, headers={"authorization": f"Bearer {self.key}"})


def ask(
    site: Site, call: str, right: tuple[int, ...], send: Callable[[], httpx2.Response], write: bool = False
) -> httpx2.Response | None:
    """The answer; None if the connection broke. What is neither right nor trouble is noted as wrong."""
    try:
        answer = send()
    except httpx2.TransportError:
        site.tally.note(call, 0)
        site.over.wait(0.3)
        return None
    done = answer.status_code in right
    site.tally.note(call, answer.status_code, written=write and done)
    if not done and answer.status_code not in TROUBLE:
        site.tally.complain(f"{call}: {answer.status_code} {answer.text[:300]}")
    elif not done:
        site.over.wait(0.1)
    return answer


class Writer:
    """Enrols and deletes persons of its own, and searches for them.

    Attributes:
        faces: for each person how many faces there may be: None for no such person; several values where a write was
            not answered.
    """

    def __init__(self, site: Site, name: str) -> None:
        self.site, self.name, self.rng = site, name, random.Random(name)
        self.faces: dict[str, set[int | None]] = {}

    def work(self) -> None:
        with self.site.http() as http:
            while not self.site.over.is_set():
                known = [person for person, counts in self.faces.items() if counts == {1}]
                chance = self.rng.random()
                if known and chance < 0.2:
                    self._delete(http, self.rng.choice(known))
                elif known and chance < 0.6:
                    self._search(http, self.rng.choice(known), {1})
                elif gone := [p for p, counts in self.faces.items() if counts == {None}][-20:] if chance < 0.7 else []:
                    self._search(http, self.rng.choice(gone), {None})
                else:
                    self._enrol(http)

    def _enrol(self, http: httpx2.Client) -> None:
        person = f"{self.name}-{len(self.faces)}"
        path = f"/galleries/g/persons/{person}"
        body = {"embeddings": [{"embedding": template(person)}], "embedding_contract": self.site.contract}
        self._write("put", person, 0, (201,), lambda: http.put(path, json={"expires_at": _EXPIRES}))
        if self.faces[person] == {0}:
            self._write("enrol", person, 1, (201,), lambda: http.post(f"{path}/faces", json=body))

    def _delete(self, http: httpx2.Client, person: str) -> None:
        self._write("delete", person, None, (204,), lambda: http.delete(f"/galleries/g/persons/{person}"))

    def _write(
        self, call: str, person: str, faces: int | None, right: tuple[int, ...], send: Callable[[], httpx2.Response]
    ) -> None:
        before = self.faces.get(person, {None})
        self.faces[person] = before | {faces}
        answer = ask(self.site, call, right, send, write=True)
        if answer is not None and answer.status_code in right:
            self.faces[person] = {faces}
        elif answer is not None and answer.status_code == NOTHING_WRITTEN:
            self.faces[person] = before

    def _search(self, http: httpx2.Client, person: str, counts: set[int | None]) -> None:
        body = {"embedding": template(person), "embedding_contract": self.site.contract, "threshold": 0.99}
        answer = ask(
            self.site,
            "search",
            (200,),
            lambda: http.post("/galleries/g/search", json={**body, "candidates": "above_threshold"}),
        )
        if answer is not None and answer.status_code == 200:
            [probe] = answer.json()["probes"]
            found = [candidate["person_id"] for candidate in probe["candidates"]]
            if found != ([person] if counts == {1} else []):
                self.site.tally.complain(f"search for {person} ({counts}): {found}")


def verify(site: Site) -> None:
    """Photos of one person match, those of two do not."""
    rng = random.Random("verify")
    with site.http() as http:
        while not site.over.is_set():
            same = rng.random() < 0.5
            a, b = site.photos if same else (site.photos[0], rng.choice(site.strangers))
            files = {"image_a": a, "image_b": b}
            answer = ask(site, "verify", (200,), lambda files=files: http.post("/verify", files=files))
            if answer is not None and answer.status_code == 200 and answer.json()["match"] != same:
                site.tally.complain(f"verify: {answer.text[:200]}, expected {same}")
            site.over.wait(0.2)


def corrupt(site: Site, seconds: float, seeds: list[bytes], rng: random.Random) -> None:
    """Upload damaged photos for a while."""
    until = time.monotonic() + seconds
    with site.http() as http:
        while time.monotonic() < until and not site.over.is_set():
            content = damaged(seeds, rng)
            ask(site, "corrupt", (200, 413, 415, 422), lambda c=content: http.post("/detect", files={"image": c}))


def template(person: str) -> list[float]:
    """Known from the name alone."""
    vector = np.random.default_rng(list(person.encode())).normal(size=128)
    listed: list[float] = (vector / np.linalg.norm(vector)).tolist()
    return listed
