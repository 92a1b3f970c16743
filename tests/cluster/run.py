"""One run: replicas on a database, clients, kills, and what is there in the end."""

import base64
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx2

from service.runtime.bundle import open_bundle
from tests.cluster.balancer import balancing
from tests.cluster.client import ENROLLED, GONE, Client, Site, template
from tests.cluster.limited import PER_MINUTE, Limited
from tests.cluster.replicas import Cluster, running
from tests.cluster.told import Told

REPLICAS, CLIENTS = 3, 4
CALM_S = (2.0, 5.0)
# Each is found by a scan of the whole chain.
RECEIPTS = 3


@dataclass(frozen=True)
class Plan:
    """Of a run.

    Attributes:
        name: for the eyes.
        url: of the database.
        halfway: what happens to PostgreSQL in the middle; nobody is asked for anything else meanwhile.
        crashes: how often it forgets what is not logged.
        settings: of the replicas, besides.
    """

    name: str
    url: str
    halfway: Callable[[Told], None]
    crashes: int
    bundle: Path
    seconds: float
    seed: int
    settings: Mapping[str, str]


@dataclass(frozen=True)
class Outcome:
    """Of a run. ``lost``: what was answered and is not so; ``limited``: allowed, refused, and the most allowed."""

    name: str
    seconds: float
    told: Told
    kills: int
    ends: int
    failed_starts: int
    lost: list[str]
    unknown: int
    audit_lines: int
    limited: tuple[int, int, int]

    @property
    def sound(self) -> bool:
        wrong = (self.lost, self.told.stale, self.told.wrong, self.ends)
        return not any(wrong) and self.limited[0] <= self.limited[2]


def run(plan: Plan) -> Outcome:
    """Raises SystemExit if the cluster does not come up, or the audit chain is broken."""
    told, over = Told(), threading.Event()
    settings = {
        "LIKENESS_DATABASE_URL": plan.url,
        "LIKENESS_MASTER_KEY": base64.b64encode(os.urandom(32)).decode(),
        **plan.settings,
    }
    contract = open_bundle(plan.bundle).card.embedding_contract
    with tempfile.TemporaryDirectory() as name, running(REPLICAS, plan.bundle, Path(name), settings) as cluster:
        cluster.wait_until_ready()
        key = str(cluster.likeness("keys", "create")["key"])
        limited_key = str(cluster.likeness("keys", "create", "--rate", str(PER_MINUTE))["key"])
        with balancing([one.url for one in cluster.replicas], cluster.folder) as balancer:
            site = Site(cluster, key, contract, balancer, told, over)
            _make_gallery(site)
            clients = [Client(site, f"c{n}", plan.seed, balanced=n == 0) for n in range(CLIENTS)]
            limited = Limited(site, limited_key)
            threads = [threading.Thread(target=work) for work in (*(one.work for one in clients), limited.work)]
            told.begin()
            began = time.monotonic()
            for thread in threads:
                thread.start()
            try:
                kills = _storm(plan, cluster, told)
            finally:
                over.set()
                for thread in threads:
                    thread.join()
            seconds, most = time.monotonic() - began, limited.most(plan.crashes)
        cluster.wait_until_ready()
        lost = _lost(site, clients)
        lines = _verified(cluster, clients)
        ends = sum(replica.ends for replica in cluster.replicas)
        failed_starts = sum(replica.failed_starts for replica in cluster.replicas)
    unknown = sum(len(counts) > 1 for client in clients for counts in client.faces.values())
    return Outcome(
        name=plan.name,
        seconds=seconds,
        told=told,
        kills=kills,
        ends=ends,
        failed_starts=failed_starts,
        lost=lost,
        unknown=unknown,
        audit_lines=lines,
        limited=(limited.allowed, limited.refused, most),
    )


def _storm(plan: Plan, cluster: Cluster, told: Told) -> int:
    """Kill replicas, and once do to PostgreSQL what the plan says; how many were killed."""
    rng, kills = random.Random(plan.seed), 0
    now = time.monotonic()
    until, half, done = now + plan.seconds, now + plan.seconds / 2, False
    while time.monotonic() < until:
        time.sleep(rng.uniform(*CALM_S))
        if not done and time.monotonic() >= half:
            plan.halfway(told)
            done = True
        else:
            kills += cluster.kill_one(rng)
    if not done:
        plan.halfway(told)
    return kills


def _make_gallery(site: Site) -> None:
    headers = {"authorization": f"Bearer {site.key}"}
    answer = httpx2.put(f"{site.cluster.replicas[0].url}/v1/galleries/g", headers=headers, timeout=60)
    if answer.status_code != 201:
        raise SystemExit(f"No gallery could be made: {answer.status_code} {answer.text}")


def _lost(site: Site, clients: Sequence[Client]) -> list[str]:
    """What was answered and is not so, at any replica."""
    known = {person: counts for client in clients for person, counts in client.faces.items()}
    lost = []
    for replica in site.cluster.replicas:
        headers = {"authorization": f"Bearer {site.key}"}
        with httpx2.Client(base_url=f"{replica.url}/v1", timeout=60, headers=headers) as http:
            listed = _listed(http)
            lost += [
                f"{replica.name}: {person} has {listed.get(person)} faces, may have {counts}"
                for person, counts in known.items()
                if listed.get(person) not in counts
            ]
            lost += [f"{replica.name}: {person} was never enrolled" for person in set(listed) - set(known)]
            gallery = http.get("/galleries/g").json()
            if (gallery["persons"], gallery["faces"]) != (len(listed), sum(listed.values())):
                lost.append(f"{replica.name}: the gallery counts {gallery}, {len(listed)} persons are listed")
            with ThreadPoolExecutor(4) as pool:
                sure = [(person, counts) for person, counts in known.items() if len(counts) == 1]
                # A third of them at each replica.
                part = sure[site.cluster.replicas.index(replica) :: len(site.cluster.replicas)]
                searched = pool.map(lambda one: _search(http, site.contract, *one), part)
                lost += [f"{replica.name}: {words}" for words in searched if words]
    return lost


def _listed(http: httpx2.Client) -> dict[str, int]:
    listed: dict[str, int] = {}
    cursor: str | None = ""
    while cursor is not None:
        page = http.get("/galleries/g/persons", params={"limit": 1000, **({"cursor": cursor} if cursor else {})})
        listed |= {person["id"]: person["faces"] for person in page.json()["persons"]}
        cursor = page.json()["cursor"]
    return listed


def _search(http: httpx2.Client, contract: str, person: str, counts: set[int | None]) -> str | None:
    body = {"embedding": template(person), "embedding_contract": contract, "threshold": 0.99}
    answer = http.post("/galleries/g/search", json={**body, "candidates": "above_threshold"})
    if answer.status_code != 200:
        return f"search for {person}: {answer.status_code} {answer.text[:200]}"
    [probe] = answer.json()["probes"]
    found = [candidate["person_id"] for candidate in probe["candidates"]]
    return None if found == ([person] if counts == {ENROLLED} else []) else f"search for {person} {counts}: {found}"


def _verified(cluster: Cluster, clients: Sequence[Client]) -> int:
    """How many lines the audit chain has. Raises SystemExit if it is broken, or an erasure's receipt is not in it."""
    receipts = [client.receipts[-1] for client in clients if client.receipts][:RECEIPTS]
    for receipt in receipts:
        cluster.likeness("audit", "verify", "--receipt", receipt)
    deleted = sum(counts == {GONE} for client in clients for counts in client.faces.values())
    lines = int(str(cluster.likeness("audit", "verify")["lines"]))
    if lines < deleted:
        raise SystemExit(f"The audit chain has {lines} lines, but {deleted} persons were deleted.")
    return lines
