"""A client that spreads its requests over the replicas and knows what the right answers are."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx2
import numpy as np

from tests.cluster.replicas import Cluster, Replica
from tests.cluster.told import BROKEN, Told

Send = Callable[[httpx2.Client], httpx2.Response]
# No person; a person without and with a face.
GONE, BARE, ENROLLED = None, 0, 1
# How often a write that was not answered is sent again, to another replica.
AGAIN = 3


@dataclass(frozen=True)
class Site:
    """What all clients share.

    Attributes:
        key: an access key for everything.
        contract: of the embeddings.
        balancer: address of a load balancer, or None.
        over: set when they are to stop.
    """

    cluster: Cluster
    key: str
    contract: str
    balancer: str | None
    told: Told
    over: threading.Event


class Client:
    """Enrols, deletes, searches and lists persons of its own.

    Attributes:
        faces: for each person how many faces there may be; several values where a write was not answered.
        receipts: of deletions that were answered.
    """

    def __init__(self, site: Site, name: str, seed: int, *, balanced: bool = False) -> None:
        self.site, self.name, self._rng = site, name, random.Random(f"{seed} {name}")
        self._through = site.balancer if balanced else None
        self.faces: dict[str, set[int | None]] = {}
        self.receipts: list[str] = []
        self._https: dict[str, httpx2.Client] = {}

    def work(self) -> None:
        try:
            while not self.site.over.is_set():
                self._step()
        except Exception as error:
            self.site.told.complain(f"{self.name} ended: {error!r}")
            raise
        finally:
            for http in self._https.values():
                http.close()

    def _step(self) -> None:
        enrolled = [person for person, counts in self.faces.items() if counts == {ENROLLED}]
        gone = [person for person, counts in self.faces.items() if counts == {GONE}]
        chance = self._rng.random()
        if enrolled and chance < 0.2:
            self._delete(self._rng.choice(enrolled))
        elif enrolled and chance < 0.45:
            self._search(self._rng.choice(enrolled))
        elif gone and chance < 0.55:
            self._search(self._rng.choice(gone[-20:]))
        elif chance < 0.58:
            self._list()
        else:
            self._enrol()

    def _enrol(self) -> None:
        person = f"{self.name}-{len(self.faces)}"
        path = f"/galleries/g/persons/{person}"
        body = {"embeddings": [{"embedding": template(person)}], "embedding_contract": self.site.contract}
        once = {"idempotency-key": f"enrol {person}"}
        self._write("put", person, BARE, (201,), (200, 201), lambda http: http.put(path, json={}))
        if self.faces[person] == {BARE}:
            self._write(
                *("enrol", person, ENROLLED, (201,), (201,)),
                lambda http: http.post(f"{path}/faces", json=body, headers=once),
            )

    def _delete(self, person: str) -> None:
        path = f"/galleries/g/persons/{person}"
        answer = self._write("delete", person, GONE, (204,), (204, 404), lambda http: http.delete(path))
        if answer is not None and answer.status_code == 204:
            self.receipts.append(answer.headers["x-erasure-receipt"])

    def _write(
        self,
        call: str,
        person: str,
        faces: int | None,
        right: tuple[int, ...],
        right_again: tuple[int, ...],
        send: Send,
    ) -> httpx2.Response | None:
        """Send it until it is answered, or leave it unknown what became of it. Then look at another replica."""
        self.faces[person] = self.faces.get(person, {GONE}) | {faces}
        for attempt in range(1 + (AGAIN if self._rng.random() < 0.5 else 0)):
            answer, replica = self._ask(call, right if attempt == 0 else right_again, send, write=True)
            if answer is not None and answer.status_code in right_again:
                self.faces[person] = {faces}
                self._look(person, replica)
                return answer
            if self.site.over.wait(0.2):
                break
        return None

    def _look(self, person: str, written_at: Replica | None) -> None:
        """Is what was answered there, at a replica that did not answer it?"""
        others = [replica for replica in self.site.cluster.up() if replica is not written_at]
        if not others:
            return
        [faces] = self.faces[person]
        path = f"/galleries/g/persons/{person}"
        other = self._rng.choice(others)
        answer, _ = self._ask("look", (200, 404), lambda http: http.get(path), at=other)
        if answer is not None and answer.status_code in (200, 404):
            seen = answer.json()["faces"] if answer.status_code == 200 else GONE
            self.site.told.looked(None if seen == faces else f"{other.name}: {person} has {seen}, told {faces}")
        other = self._rng.choice(others)
        found = self._found(person, at=other)
        if found is not None:
            right = found == ([person] if faces == ENROLLED else [])
            self.site.told.looked(None if right else f"{other.name}: search for {person} ({faces}): {found}")

    def _search(self, person: str) -> None:
        [faces] = self.faces[person]
        found = self._found(person)
        if found is not None and found != ([person] if faces == ENROLLED else []):
            self.site.told.complain(f"search for {person} ({faces}): {found}")

    def _found(self, person: str, at: Replica | None = None) -> list[str] | None:
        """Who is found with the template of a person; None if there was no answer."""
        body = {"embedding": template(person), "embedding_contract": self.site.contract, "threshold": 0.99}
        body["candidates"] = "above_threshold"
        answer, _ = self._ask("search", (200,), lambda http: http.post("/galleries/g/search", json=body), at=at)
        if answer is None or answer.status_code != 200:
            return None
        [probe] = answer.json()["probes"]
        return [candidate["person_id"] for candidate in probe["candidates"]]

    def _list(self) -> None:
        """All pages, each from any replica; own persons are in them as they were answered."""
        listed: dict[str, int] = {}
        cursor: str | None = ""
        while cursor is not None:
            query = {"limit": 500, **({"cursor": cursor} if cursor else {})}
            page, _ = self._ask("list", (200,), partial(_page, query=query))
            if page is None or page.status_code != 200:
                return
            listed |= {person["id"]: person["faces"] for person in page.json()["persons"]}
            cursor = page.json()["cursor"]
        missed = {p: (c, listed.get(p)) for p, c in self.faces.items() if len(c) == 1 and listed.get(p) not in c}
        if missed:
            self.site.told.complain(f"{self.name} listed (told, seen): {dict(list(missed.items())[:5])}")

    def _ask(
        self, call: str, right: tuple[int, ...], send: Send, *, at: Replica | None = None, write: bool = False
    ) -> tuple[httpx2.Response | None, Replica | None]:
        """The answer, and who gave it. None if nobody did: then nobody knows what became of a write.

        Without ``at`` it goes to the balancer, or else to any replica; where nobody listens, to the next.
        """
        told, replicas = self.site.told, self.site.cluster.up()
        self._rng.shuffle(replicas)
        places: list[tuple[str, Replica | None]] = [(replica.url, replica) for replica in replicas]
        if at is not None:
            places = [(at.url, at)]
        elif self._through is not None:
            places = [(self._through, None)]
        for url, replica in places:
            sent = time.monotonic()
            try:
                answer = send(self._http(url))
            except httpx2.ConnectError:
                continue
            except httpx2.TransportError:
                told.note(call, BROKEN)
                return None, replica
            self._judge(call, right, answer, sent, write)
            return answer, replica
        told.note(call, BROKEN)
        self.site.over.wait(0.1)
        return None, None

    def _judge(self, call: str, right: tuple[int, ...], answer: httpx2.Response, sent: float, write: bool) -> None:
        told, status = self.site.told, answer.status_code
        done = status in right
        told.note(call, status, written=write and done)
        if done:
            return
        if status != 503 or "retry-after" not in answer.headers:
            told.complain(f"{call}: {status} {answer.text[:300]}")
        elif not told.may_be_away(sent, time.monotonic()) and self._through is None:
            told.complain(f"{call}: 503 while PostgreSQL was there: {answer.text[:300]}")
        self.site.over.wait(0.1)

    def _http(self, url: str) -> httpx2.Client:
        if url not in self._https:
            headers = {"authorization": f"Bearer {self.site.key}"}
            self._https[url] = httpx2.Client(base_url=f"{url}/v1", timeout=60, headers=headers)
        return self._https[url]


def _page(http: httpx2.Client, query: dict[str, Any]) -> httpx2.Response:
    return http.get("/galleries/g/persons", params=query)


def template(person: str) -> list[float]:
    """Known from the name alone."""
    vector: Any = np.random.default_rng(list(person.encode())).normal(size=128)
    listed: list[float] = (vector / np.linalg.norm(vector)).tolist()
    return listed
