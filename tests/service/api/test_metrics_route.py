"""What ``/metrics`` tells of a real application, and that the dashboard asks for nothing else."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from service.api import figures
from service.api.app import create_app
from service.engine import Engine
from service.gallery.gallery import Galleries
from service.gallery.store import Store
from service.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
DASHBOARD = ROOT / "deploy" / "monitoring" / "grafana" / "dashboards" / "likeness.json"
# In PromQL, what is neither a metric nor a label of one.
WORDS = {"sum", "by", "le", "rate", "increase", "histogram_quantile", "job", "up", "likeness", "h", "m"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with_store = Store.open(tmp_path / "gallery.db")
    yield with_store
    with_store.close()


@pytest.fixture
def client(engine: Engine, store: Store) -> Iterator[TestClient]:
    galleries = Galleries(store, engine.card.embedding_contract, engine.card.contract.dimension)
    with TestClient(create_app(engine, Settings(), galleries), raise_server_exceptions=False) as client:
        while client.get("/v1/health/ready").status_code == 503:
            time.sleep(0.01)
        yield client


def values(client: TestClient) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample."""
    families = text_string_to_metric_families(client.get("/metrics").raise_for_status().text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(client: TestClient, name: str, **labels: str) -> float:
    return values(client).get((name, frozenset(labels.items())), 0.0)


def enrol(client: TestClient, gallery: str, person: str, *photos: bytes) -> None:
    client.put(f"/v1/galleries/{gallery}")
    client.put(f"/v1/galleries/{gallery}/persons/{person}")
    files = [("images", photo) for photo in photos]
    path = f"/v1/galleries/{gallery}/persons/{person}/faces"
    assert client.post(path, files=files, params={}).status_code == 201


def test_galleries_what_runs_and_how_far_the_index_is_behind(
    client: TestClient, store: Store, engine: Engine, portrait: bytes, portrait_again: bytes
) -> None:
    assert value(client, "likeness_ready") == 1
    enrol(client, "staff", "ann", portrait)
    enrol(client, "staff", "bob", portrait_again)
    enrol(client, "visitors", "ann", portrait)
    store.put_gallery("old", None, None, "0" * 64, 128)
    found = values(client)
    assert found["likeness_galleries", frozenset({("contract", "own")})] == 2
    assert found["likeness_galleries", frozenset({("contract", "other")})] == 1
    bare: frozenset[tuple[str, str]] = frozenset()
    names = ("persons", "faces", "largest_gallery_faces", "index_lag_faces", "galleries_loading")
    assert [found[f"likeness_{name}", bare] for name in names] == [3, 3, 2, 0, 0]
    [labels] = [dict(labels) for name, labels in found if name == "likeness_info"]
    assert labels["bundle"] == engine.card.name
    assert (labels["detector"], labels["embedder"], labels["search"]) == (*engine.providers, "cpu")
    # Behind the galleries' back, as after a change that failed half way.
    store.delete_face("staff", "ann", store.faces("staff", "ann", None, 10).items[0].id)
    assert value(client, "likeness_index_lag_faces") == 1
    enrol(client, "staff", "bob", portrait)
    assert value(client, "likeness_index_lag_faces") == 0


def test_many_galleries_are_not_counted_each_time(
    client: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def galleries() -> float:
        return value(client, "likeness_galleries", contract="other")

    def add(id: str) -> None:
        store.put_gallery(id, None, None, "0" * 64, 128)

    monkeypatch.setattr(figures, "ALWAYS", 2)
    add("a")
    assert galleries() == 1
    add("b")
    assert galleries() == 2
    add("c")
    assert galleries() == 3
    add("d")
    assert galleries() == 3
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + figures.LASTING_S)
    monkeypatch.setattr(figures, "time", later)
    assert galleries() == 4


def test_a_gallery_that_is_being_loaded_is_told(
    client: TestClient, store: Store, engine: Engine, portrait: bytes
) -> None:
    enrol(client, "staff", "ann", portrait)
    # The next start, before it has come to this gallery.
    starting = create_app(
        engine, Settings(), Galleries(store, engine.card.embedding_contract, engine.card.contract.dimension)
    )
    later = TestClient(starting)
    assert value(later, "likeness_ready") == 0
    assert value(later, "likeness_galleries_loading") == 1
    assert value(later, "likeness_index_lag_faces") == 1


def test_similarities_are_counted_by_decision(
    client: TestClient, portrait: bytes, portrait_again: bytes, group_portraits: list[bytes]
) -> None:
    def counts() -> list[float]:
        return [
            value(client, "likeness_verify_similarity_count", decision="match"),
            value(client, "likeness_verify_similarity_count", decision="no_match"),
            value(client, "likeness_search_similarity_count", decision="identified"),
            value(client, "likeness_search_similarity_count", decision="unknown"),
        ]

    def near_one(decision: str) -> float:
        name = f"likeness_{decision}_similarity_bucket"
        label = "match" if decision == "verify" else "identified"
        return value(client, name, decision=label, le="+Inf") - value(client, name, decision=label, le="0.6")

    before = counts()
    similar = near_one("verify"), near_one("search")
    for other in (portrait_again, group_portraits[0]):
        files = {"image_a": portrait, "image_b": other}
        similarity = client.post("/v1/verify", files=files).json()["similarity"]
    assert similarity < 0.4
    enrol(client, "staff", "ann", portrait)
    for probe in (portrait_again, group_portraits[0]):
        assert client.post("/v1/galleries/staff/search", files={"image": probe}).status_code == 200
    client.post("/v1/galleries/staff/persons/ann/verify", files={"image": portrait_again})
    assert [after - first for after, first in zip(counts(), before, strict=True)] == [2, 1, 1, 1]
    assert (near_one("verify") - similar[0], near_one("search") - similar[1]) == (2, 1)


def test_the_dashboard_asks_for_what_there_is(client: TestClient, portrait: bytes, portrait_again: bytes) -> None:
    enrol(client, "staff", "ann", portrait)
    client.post("/v1/galleries/staff/search", files={"image": portrait_again})
    client.post("/v1/verify", files={"image_a": portrait, "image_b": portrait_again})
    client.get("/v1/galleries/nobody")
    labels: dict[str, set[str]] = {}
    for name, pairs in values(client):
        labels.setdefault(name, set()).update(label for label, _ in pairs)
    # What nothing has been counted of has a name, and no sample yet.
    text = client.get("/metrics").text
    labels.setdefault("likeness_refused_total", {"reason"})
    assert "# TYPE likeness_refused_total counter" in text
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    assert len(queries) > 30
    asked = set()
    for query in queries:
        metrics = set(re.findall(r"\b(?:likeness|process)_[a-z_]+\b", query))
        assert metrics <= set(labels), query
        asked |= metrics
        known = set().union(*(labels[name] for name in metrics))
        bare = re.sub(r"\[[^\]]*\]", "", re.sub(r'"[^"]*"', "", query))
        words = set(re.findall(r"\b[a-z_]+\b", bare)) - metrics - WORDS
        assert words <= known, f"{query}: {words - known}"
    # And of all that is told, nothing but what others are made of is left out.
    ours = {re.sub(r"_(bucket|sum|count|total|created)$", "", name) for name in labels if name.startswith("likeness_")}
    shown = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in asked}
    assert ours - shown == set(), "a metric that the dashboard does not show"
