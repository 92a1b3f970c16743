"""Every call of the OpenAPI document, with every key that must not do: the right refusal, nothing of others in it."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.api.app import create_app
from service.api.guard import Guard
from service.engine import Engine
from service.gallery.gallery import Galleries
from service.gallery.store import Store
from service.postgres import audit
from service.postgres.access import PostgresAccessKeys
from service.postgres.audit import PostgresAuditLog
from service.postgres.database import reached
from service.postgres.limits import PostgresLimits
from service.postgres.store import open_store
from service.security import audit_file
from service.security.access_key_file import AccessKeyFile
from service.security.access_keys import SCOPES, AccessKeys, Rights
from service.security.audit_file import AuditFile
from service.security.audit_log import Link, Verified
from service.security.master_key import FilePlace
from service.security.scopes import NEEDED, PUBLIC
from service.settings import Settings

KEY = bytes(range(32))
# What belongs to the other tenant; none of it may be in any answer.
SECRETS = ("theirs", "Their Gallery", "eve", "Eve Adams", "f-eve", "eve-badge")
FIELDS = {"gallery": "theirs", "person": "eve", "face_id": "f-eve"}


@dataclass
class World:
    """A guarded service; ``verify(receipt)`` its audit log, ``lines()`` of it."""

    client: TestClient
    keys: AccessKeys
    verify: Callable[[str | None], Verified]
    links: Callable[[], Iterator[Link]]

    def lines(self) -> list[dict[str, Any]]:
        self.client.app.state.guard.audit.sync()  # type: ignore[attr-defined]
        return [json.loads(link.line) for link in self.links()]

    def key(self, *scopes: str, galleries: tuple[str, ...] | None = ("mine",), **rights: Any) -> dict[str, str]:
        """The header with a new key."""
        bound = None if galleries is None else frozenset(galleries)
        _, key = self.keys.create(Rights(frozenset(scopes or SCOPES), galleries=bound, **rights))
        return {"authorization": f"Bearer {key}"}


Parts = tuple[Store, Guard, Callable[[str | None], Verified], Callable[[], Iterator[Link]]]


@contextmanager
def in_files(folder: Path) -> Iterator[Parts]:
    """Everything in a data folder."""
    told = folder / "audit"
    guard = Guard(AccessKeyFile(folder / "keys", KEY), AuditFile(told, KEY))
    with closing(Store.open(folder / "gallery.db")) as store, closing(guard):
        yield store, guard, partial(audit_file.verify, told, KEY), partial(audit_file.read, told, KEY)


@contextmanager
def in_postgres(url: str, folder: Path) -> Iterator[Parts]:
    """Everything in a database, but the master key."""
    with closing(open_store(url, FilePlace(folder / "master.key"))) as store, reached(url, 12) as engine:
        keys = PostgresAccessKeys(engine, KEY)
        keys.follow()
        with closing(Guard(keys, PostgresAuditLog(engine, KEY), PostgresLimits(engine))) as guard:
            yield store, guard, partial(audit.verify, engine, KEY), partial(audit.read, engine, KEY)


@pytest.fixture(scope="module", params=os.environ.get("LIKENESS_TEST_BACKENDS", "sqlite postgresql").split())
def world(request: pytest.FixtureRequest, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("access")
    with ExitStack() as ending:
        if request.param == "sqlite":
            parts = ending.enter_context(in_files(folder))
        else:
            server, template = request.getfixturevalue("postgres_server"), request.getfixturevalue("migrated")
            url = server.url(ending.enter_context(server.database(template)))
            parts = ending.enter_context(in_postgres(url, folder))
        store, guard, *reading = parts
        galleries = Galleries(store, engine.card.embedding_contract, engine.card.contract.dimension)
        app = create_app(engine, Settings(), galleries, guard=guard)
        client = ending.enter_context(TestClient(app, raise_server_exceptions=False))
        assert guard.keys is not None
        world = World(client, guard.keys, *reading)
        admin = world.key(galleries=None)
        while client.get("/v1/health/ready").status_code == 503:
            time.sleep(0.01)
        for gallery, person, name in (("mine", "ann", "Ann"), ("theirs", "eve", "Eve Adams")):
            shown = {"name": "Their Gallery" if gallery == "theirs" else "Mine"}
            assert client.put(f"/v1/galleries/{gallery}", json=shown, headers=admin).status_code == 201
            path = f"/v1/galleries/{gallery}/persons/{person}"
            body = {"name": name, "metadata": {"badge": f"{person}-badge"}}
            assert client.put(path, json=body, headers=admin).status_code == 201
            embedding = [1.0, *[0.0] * (engine.card.contract.dimension - 1)]
            faces = {
                "embeddings": [{"embedding": embedding, "face_id": f"f-{person}"}],
                "embedding_contract": engine.card.embedding_contract,
            }
            assert client.post(f"{path}/faces", json=faces, headers=admin).status_code == 201
        yield world


def calls(client: TestClient) -> list[tuple[str, str, str]]:
    """Method, path with its fields filled in for the other tenant, and name of every call."""
    document = client.get("/openapi.json").json()
    found = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method in ("get", "put", "post", "patch", "delete"):
                filled = re.sub(r"\{(\w+)\}", lambda field: FIELDS[field[1]], path)
                found.append((method.upper(), filled, operation["operationId"]))
    return found


def check_refusal(answer: Any, status: int, code: str) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == code
    assert error["details"] == {}
    told = json.dumps([answer.text, dict(answer.headers)])
    assert not [secret for secret in SECRETS if secret in told]


def test_no_call_is_forgotten(world: World) -> None:
    names = {name for _, _, name in calls(world.client)}
    assert names == set(NEEDED) | PUBLIC
    assert len(calls(world.client)) == len(names)


def test_every_call_refuses_every_key_that_must_not_do(world: World) -> None:
    client, past = world.client, datetime.now(UTC) - timedelta(seconds=1)
    expired = world.key(galleries=None, expires_at=past)
    record, revoked = world.keys.create(Rights(frozenset(SCOPES)))
    world.keys.revoke(record.id)
    good = world.key(galleries=None)["authorization"].removeprefix("Bearer ")
    wrong = good[:-1] + ("A" if good[-1] != "A" else "B")
    checked = 0
    for method, path, name in calls(client):
        if name in PUBLIC:
            assert client.request(method, path).status_code in (200, 503)
            continue
        for headers in (
            {},
            {"authorization": good},
            {"authorization": f"Basic {good}"},
            {"authorization": "Bearer "},
            {"authorization": f"Bearer {wrong}"},
            {"authorization": f"Bearer {revoked}"},
            {"authorization": "Bearer lk_000000000000_" + "A" * 43},
            expired,
        ):
            answer = client.request(method, path, headers=headers)
            check_refusal(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert good not in answer.text
            checked += 1
        others = [scope for scope in SCOPES if scope not in NEEDED[name]]
        if others:
            check_refusal(client.request(method, path, headers=world.key(*others, galleries=None)), 403, "forbidden")
            checked += 1
        if "theirs" in path:
            mine = world.key()
            refused = client.request(method, path, headers=mine)
            check_refusal(refused, 403, "forbidden")
            # Whether there is such a gallery at all makes no difference.
            nowhere = client.request(method, path.replace("theirs", "nowhere"), headers=mine)
            assert without_id(nowhere.json()) == without_id(refused.json())
            checked += 2
    assert checked > 100
    world.verify(None)


def without_id(answer: Any) -> Any:
    return {name: value for name, value in answer.items() if name != "request_id"}


def test_a_refusal_reads_no_body(world: World) -> None:
    """So that whoever has no key cannot make the service hold uploads."""

    def never() -> Iterator[bytes]:
        raise AssertionError("the body was asked for")
        yield b""

    answer = world.client.post(
        "/v1/detect", content=never(), headers={"content-type": "multipart/form-data; boundary=x"}
    )
    check_refusal(answer, 401, "unauthorized")


def test_a_tenant_sees_only_its_own(world: World) -> None:
    mine = world.key()
    listed = world.client.get("/v1/galleries", headers=mine)
    assert [gallery["id"] for gallery in listed.json()["galleries"]] == ["mine"]
    assert "theirs" not in listed.text
    assert world.client.get("/v1/galleries?limit=1", headers=mine).json()["cursor"] is None
    assert world.client.get("/v1/galleries/mine/persons/ann", headers=mine).json()["name"] == "Ann"
    both = world.client.get("/v1/galleries", headers=world.key(galleries=None)).json()
    assert [gallery["id"] for gallery in both["galleries"]] == ["mine", "theirs"]
    check_refusal(world.client.get("/metrics", headers=mine), 403, "forbidden")
    assert world.client.get("/metrics", headers=world.key("monitor", galleries=None)).status_code == 200


def test_templates_leave_with_the_scope_embed_only(world: World, portrait: bytes) -> None:
    embedding = re.compile(r"embedding\"|AACAPwAA")
    everything_else = world.key(*(scope for scope in SCOPES if scope != "embed"))
    photo = {"image": ("a.jpg", portrait), "image_a": ("a.jpg", portrait), "image_b": ("a.jpg", portrait)}
    answered = 0
    for method, theirs, _ in calls(world.client):
        path = theirs.replace("theirs", "mine").replace("eve", "ann")
        if method == "DELETE":
            continue
        for name in (
            {},
            {"files": {"image": photo["image"]}},
            {"files": {k: photo[k] for k in ("image_a", "image_b")}},
        ):
            answer = world.client.request(method, path, headers=everything_else, **name)  # type: ignore[arg-type]
            if answer.status_code < 300:
                answered += 1
                assert not embedding.search(answer.text.replace("embedding_", "")), path
    assert answered > 10
    with_it = world.key("embed")
    assert embedding.search(world.client.get("/v1/galleries/mine/export", headers=with_it).text)


def test_rate_and_concurrency_are_limited_by_key(world: World) -> None:
    slow, other = world.key("search", rate_per_minute=3), world.key("search", rate_per_minute=3)
    path = "/v1/galleries/mine"
    assert [world.client.get(path, headers=slow).status_code for _ in range(4)] == [200, 200, 200, 429]
    refused = world.client.get(path, headers=slow)
    assert refused.json()["error"]["code"] == "rate_limited"
    assert 1 <= int(refused.headers["retry-after"]) <= 20
    assert world.client.get(path, headers=other).status_code == 200


def test_deletions_are_answered_with_a_receipt(world: World) -> None:
    client, mine = world.client, world.key()
    path = "/v1/galleries/mine/persons/bob"
    for prefer in ({}, {"prefer": "respond-async, return = representation"}):
        assert client.put(path, headers=mine).status_code == 201
        answer = client.delete(path, headers={**mine, **prefer})
        receipt = answer.headers["x-erasure-receipt"]
        assert world.verify(receipt).lines >= 1
        seq = int(receipt.partition(":")[0])
        line = world.lines()[seq - 1]
        assert (line["action"], line["gallery"], line["person"], line["status"]) == (
            "delete_person",
            "mine",
            "bob",
            204,
        )
        if prefer:
            assert answer.status_code == 200
            assert answer.json() == {
                "erased": {"gallery": "mine", "person": "bob"},
                "at": line["at"],
                "receipt": receipt,
            }
        else:
            assert (answer.status_code, answer.content) == (204, b"")
    missing = client.delete(path, headers=mine)
    assert missing.status_code == 404
    assert "x-erasure-receipt" not in missing.headers


def test_the_audit_log_tells_who_was_looked_for_and_found(world: World, engine: Engine) -> None:
    mine = world.key("search")
    embedding = [1.0, *[0.0] * (engine.card.contract.dimension - 1)]
    body = {"embedding": embedding, "embedding_contract": engine.card.embedding_contract}
    answer = world.client.post("/v1/galleries/mine/search", json=body, headers={**mine, "x-request-id": "look-1"})
    assert answer.status_code == 200
    [line] = [line for line in world.lines() if line.get("request_id") == "look-1"]
    assert line["details"] == {"identified": ["ann"]}
    assert line["actor"] == mine["authorization"].split("_")[1]
    assert line["status"] == 200
    assert "1.0" not in json.dumps(line)


def test_answers_are_not_kept_framed_or_shared(world: World) -> None:
    """On every kind of answer, and no page of another site is let in."""
    site = {"origin": "https://example.org", "access-control-request-method": "GET"}
    for answer in (
        world.client.get("/v1/health/live", headers=site),
        world.client.get("/v1/info", headers=site),
        world.client.get("/v1/galleries", headers={**world.key(), **site}),
        world.client.options("/v1/galleries", headers=site),
        world.client.get("/nothing"),
    ):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "server" not in answer.headers
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_every_call_says_in_the_document_what_it_needs(world: World) -> None:
    for methods in world.client.get("/openapi.json").json()["paths"].values():
        for operation in methods.values():
            if operation["operationId"] in PUBLIC:
                assert operation["security"] == []
            else:
                assert operation["security"] == [{"access_key": []}]
                assert set(operation["x-scopes"]) == NEEDED[operation["operationId"]]
                assert {"401", "403"} <= set(operation["responses"])
