"""What the time of a refusal tells: nothing, for every call of the OpenAPI document.

The sharp test is that a refusal does not come as far as the store. Beside it answers are timed through the whole
application, on the clock and in time of the processor, in rounds that have one of each kind in a random order. Within a
round either of two kinds is as likely to be the slower one unless they differ, whatever else the machine does: what is
looked at is how often it was (a sign test). Five standard deviations away is one run in two million.
"""

import itertools
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import anyio
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import event

from service.api.app import create_app
from service.api.guard import Guard
from service.engine import Engine
from service.gallery.gallery import Galleries
from service.gallery.records import NewFace
from service.gallery.store import Once, Store
from service.gallery.store_bulk import BulkFace, BulkPerson
from service.security.access_key_file import AccessKeyFile
from service.security.access_keys import SCOPES, AccessKeys, Rights
from service.security.audit_file import AuditFile
from service.security.scopes import PUBLIC
from service.settings import Settings
from tests.service.api.test_access import calls

KEY = bytes(range(32))
# Two galleries of somebody else's, and one that is not there; names as long as each other.
LARGE, SMALL, NONE = "theirs", "others", "nobody"
PERSONS = 2000
USED = "a-key-that-they-used"
ROUNDS, FAR = 32, 5.0


@dataclass
class World:
    app: FastAPI
    store: Store
    keys: AccessKeys

    def key(self, **rights: Any) -> str:
        """A new key with all scopes."""
        return self.keys.create(Rights(frozenset(SCOPES), **rights))[1]


@dataclass(frozen=True)
class Answer:
    """``seconds`` on the clock, and of the processor."""

    status: int
    headers: Mapping[str, str]
    body: Any
    seconds: tuple[float, float]

    @property
    def told(self) -> tuple[int, Mapping[str, str], Any]:
        """All but what is new with every request."""
        body = {name: value for name, value in self.body.items() if name != "request_id"}
        return self.status, {name: value for name, value in self.headers.items() if name != "x-request-id"}, body


@pytest.fixture(scope="module")
def world(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("timing")
    store = Store.open(folder / "gallery.db")
    dimension = engine.card.contract.dimension
    galleries = Galleries(store, engine.card.embedding_contract, dimension)
    faces = np.eye(1, dimension, dtype=np.float32)
    for gallery in (LARGE, SMALL):
        galleries.put(gallery, None, None)
        galleries.import_persons(gallery, [BulkPerson("eve", faces=(BulkFace("f-eve", faces[0]),))])
        galleries.enrol(gallery, "eve", [NewFace(faces[0])], Once(USED, "0" * 64), lambda _: {})
    galleries.import_persons(LARGE, [BulkPerson(f"p{i}", faces=(BulkFace(f"f{i}", faces[0]),)) for i in range(PERSONS)])
    keys, audit = AccessKeyFile(folder / "keys", KEY), AuditFile(folder / "audit", KEY)
    yield World(create_app(engine, Settings(), galleries, guard=Guard(keys, audit)), store, keys)
    audit.close()
    store.close()


async def ask(app: FastAPI, method: str, path: str, key: str) -> Answer:
    """One request, without a network between."""
    given = {"authorization": f"Bearer {key}", "idempotency-key": USED, "content-type": "application/json"}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "client": ("192.0.2.1", 1),
        "server": ("service", 80),
    }
    sent: list[Any] = []

    async def receive() -> Any:
        # No body comes before a refusal, and then nobody waits for one.
        await anyio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    start = time.perf_counter(), time.process_time()
    await app(scope, receive, send)
    seconds = time.perf_counter() - start[0], time.process_time() - start[1]
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return Answer(sent[0]["status"], headers, json.loads(body), seconds)


def guarded(world: World) -> list[tuple[str, str]]:
    """Method and path of every call that needs a key."""
    return [(method, path) for method, path, name in calls(TestClient(world.app)) if name not in PUBLIC]


def about_galleries(world: World) -> list[tuple[str, str]]:
    """Those that name a gallery."""
    return [(method, path) for method, path in guarded(world) if LARGE in path]


def timed(world: World, kinds: Sequence[Sequence[Callable[[FastAPI], Any]]], rounds: int = ROUNDS) -> np.ndarray:
    """Seconds of each call (first axis) in each round (second), by kind (third) and clock (last)."""

    async def run() -> np.ndarray:
        seconds = np.zeros((len(kinds), rounds, len(kinds[0]), 2))
        for round in range(rounds):
            for call, those in enumerate(kinds):
                for kind in random.sample(range(len(those)), len(those)):
                    seconds[call, round, kind] = (await those[kind](world.app)).seconds
        return seconds

    return anyio.run(run)


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """How far from even it is which of the two was slower, in standard deviations."""
    return float(2 * (np.count_nonzero(one > other) - one.size / 2) / np.sqrt(one.size))


def assert_alike(seconds: np.ndarray, calls: Sequence[object], kinds: Sequence[str]) -> None:
    """No two kinds differ, neither over all calls nor in one of them."""
    for clock, a, b in itertools.product(range(2), range(len(kinds)), range(len(kinds))):
        if a < b:
            one, other = seconds[:, :, a, clock], seconds[:, :, b, clock]
            shift = 1e6 * float(np.median(one - other))
            told = f"{kinds[a]} against {kinds[b]}: {apart(one, other):.1f} σ, {shift:.1f} µs"
            assert abs(apart(one, other)) < FAR, told
            for call, those, these in zip(calls, one, other, strict=True):
                assert abs(apart(those, these)) < FAR, f"{call}: {told}"


def test_a_refusal_asks_nothing_of_the_store(world: World) -> None:
    """And so it can take no longer for what is there: neither the galleries nor a queue is touched."""
    touched: list[str] = []

    class Untouched:
        def __getattr__(self, name: str) -> Any:
            touched.append(name)
            raise AssertionError(f"a refused request came to {name}")

    statements: list[str] = []

    def count(*given: Any) -> None:
        statements.append(given[2])

    mine, state = world.key(galleries=frozenset({"mine"})), world.app.state
    kept = {name: getattr(state, name) for name in ("galleries", "store_workers", "search_workers", "workers")}
    event.listen(world.store._sessions.engine, "before_cursor_execute", count)
    try:
        for name in kept:
            setattr(state, name, Untouched())
        for method, path in about_galleries(world):
            answers = [
                anyio.run(ask, world.app, method, path.replace(LARGE, gallery), mine)
                for gallery in (LARGE, SMALL, NONE)
            ]
            assert answers[0].status == 403, (method, path)
            assert answers[0].told == answers[1].told == answers[2].told
        for method, path in guarded(world):
            assert anyio.run(ask, world.app, method, path, "lk_000000000000_" + "A" * 43).status == 401
        assert touched == statements == []
    finally:
        for name, value in kept.items():
            setattr(state, name, value)
    # The count counts.
    anyio.run(ask, world.app, "GET", f"/v1/galleries/{SMALL}", world.key())
    event.remove(world.store._sessions.engine, "before_cursor_execute", count)
    assert statements


def test_a_refusal_takes_as_long_for_a_gallery_that_is_not_there(world: World) -> None:
    mine, those = world.key(galleries=frozenset({"mine"})), about_galleries(world)
    kinds = [
        [partial(ask, method=method, path=path.replace(LARGE, name), key=mine) for name in (LARGE, SMALL, NONE)]
        for method, path in those
    ]
    assert_alike(timed(world, kinds), those, (LARGE, SMALL, NONE))


def test_a_key_takes_as_long_to_be_refused_whatever_is_wrong_with_it(world: World) -> None:
    good = world.key()
    wrong = good[:-1] + ("A" if good[-1] != "A" else "B")
    unknown = f"lk_{'0' * 12}{good[15:]}"
    revoked = world.key()
    world.keys.revoke(revoked.split("_")[1])
    expired = world.key(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    some = [("GET", f"/v1/galleries/{LARGE}"), ("POST", f"/v1/galleries/{LARGE}/search"), ("POST", "/v1/verify")]
    kinds = [
        [partial(ask, method=method, path=path, key=key) for key in (wrong, unknown, revoked)] for method, path in some
    ]
    assert_alike(timed(world, kinds, 200), some, ("wrong secret", "unknown id", "revoked"))
    # Told apart by its words, and only to whoever has all of the key.
    assert "expired" in anyio.run(ask, world.app, *some[0], expired).body["error"]["message"]
    assert "expired" not in anyio.run(ask, world.app, *some[0], expired[:-1] + "-").body["error"]["message"]


def test_a_question_to_the_store_would_be_seen(world: World) -> None:
    """Of a key that may ask, the time does tell: a gallery that is not there is answered sooner."""
    may = world.key()
    path = f"/v1/galleries/{LARGE}/persons/eve"
    kinds = [[partial(ask, method="GET", path=path.replace(LARGE, name), key=may) for name in (LARGE, NONE)]]
    seconds = timed(world, kinds, 200)
    with pytest.raises(AssertionError, match="σ"):
        assert_alike(seconds, [path], (LARGE, NONE))


def test_calls_that_a_key_is_not_for_count_against_its_limit(world: World) -> None:
    """So that nobody can try galleries, or fill the audit log, past it; and what is over it is not in the log."""
    slow = world.key(galleries=frozenset({"mine"}), rate_per_minute=2)
    audit = world.app.state.guard.audit
    before = audit._last.seq
    for name in (LARGE, NONE):
        assert anyio.run(ask, world.app, "DELETE", f"/v1/galleries/{name}", slow).status == 403
    over = [anyio.run(ask, world.app, "DELETE", f"/v1/galleries/{name}", slow) for name in (LARGE, NONE)]
    assert [answer.status for answer in over] == [429, 429]
    assert over[0].told == over[1].told
    assert audit._last.seq == before + 2


def test_a_full_disk_is_told_to_nobody_without_a_key(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The room of the audit log is looked at after the key."""
    monkeypatch.setattr(world.app.state.guard.audit, "_make_room", lambda: False)
    path = f"/v1/galleries/{LARGE}"
    assert anyio.run(ask, world.app, "PUT", path, "lk_000000000000_" + "A" * 43).status == 401
    assert anyio.run(ask, world.app, "PUT", path, world.key(galleries=frozenset({"mine"}))).status == 403
    assert anyio.run(ask, world.app, "PUT", path, world.key()).status == 507
