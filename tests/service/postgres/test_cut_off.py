"""What was cut off half way is finished by whoever is there, and replicas that do the same at once do it once."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psycopg
import pytest

from service.gallery.store_galleries import STEP
from service.postgres import database
from service.postgres.failures import DatabaseAway
from service.postgres.hnsw import Hnsw
from service.postgres.searchers import SearchPlan
from tests.postgres_server import PostgresServer
from tests.service.postgres.replicas import DATABASE, Replica, bulk, replicas, unit
from tests.service.postgres.waiting import cut_waiting, wait_for_waiting

RNG = np.random.default_rng(11)
# More than two steps of a deletion take.
MANY = STEP + 40


@contextmanager
def last_face_held(url: str) -> Iterator[None]:
    """Whoever deletes the newest face of all waits."""
    with psycopg.connect(url) as connection:
        connection.execute("SELECT 1 FROM faces ORDER BY key DESC LIMIT 1 FOR UPDATE")
        yield
        connection.rollback()


def cut_off(replica: Replica, gallery: str, server: PostgresServer, url: str) -> None:
    """Delete a gallery of ``MANY`` persons, and lose the database after the first step of it."""
    with ThreadPoolExecutor(1) as pool, last_face_held(url):
        deleting = pool.submit(replica.galleries.delete, gallery)
        cut_waiting(server, url)
        with pytest.raises(DatabaseAway):
            deleting.result()


def left(url: str) -> tuple[object, ...] | None:
    """Galleries that are being deleted, faces, templates, persons, keys."""
    counted = ("galleries WHERE id IS NULL", "faces", "templates_16", "persons", "likeness_keys.person_keys")
    columns = ", ".join(f"(SELECT count(*) FROM {table})" for table in counted)
    with psycopg.connect(url) as connection:
        return connection.execute(f"SELECT {columns}".encode()).fetchone()


def test_a_deletion_that_was_cut_off_waits_for_no_restart(
    postgres_url: str, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    with replicas(postgres_url, tmp_path, DATABASE, DATABASE, background=False) as (deleting, other):
        deleting.galleries.put("gone", None, None)
        deleting.galleries.import_persons("gone", bulk(unit(RNG.standard_normal((MANY, 16)))))
        cut_off(deleting, "gone", postgres_server, postgres_url)
        assert left(postgres_url) == (1, 40, 40, MANY, MANY)
        other.searchers.tend()
        assert left(postgres_url) == (0, 0, 0, 0, 0)


def test_replicas_that_tend_at_once_are_in_nobodys_way(
    postgres_url: str, postgres_server: PostgresServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan, vectors = SearchPlan("database", hnsw=Hnsw(20)), unit(RNG.standard_normal((30, 16)))
    with replicas(postgres_url, tmp_path, plan, plan, background=False) as both, ThreadPoolExecutor(2) as pool:
        both[0].galleries.put("g", None, None)
        both[0].galleries.import_persons("g", bulk(vectors))
        both[0].galleries.put("gone", None, None)
        both[0].galleries.import_persons("gone", bulk(unit(RNG.standard_normal((MANY, 16)))))
        cut_off(both[0], "gone", postgres_server, postgres_url)
        with last_face_held(postgres_url):
            tending = [pool.submit(replica.searchers.tend) for replica in both]
            # One in the middle of a step of the deletion, the other before the same.
            wait_for_waiting(postgres_server, postgres_url, 2)
        for done in tending:
            done.result()
        assert left(postgres_url) == (0, 30, 30, 30, 30)
        assert "could not be tended" not in caplog.text
        assert caplog.text.count("is built") <= 1
        engine = both[0].store.backend.sessions.engine
        assert plan.hnsw.due(engine, both[0].store.every_gallery()) == []
        for replica in both:
            assert replica.found("g", vectors[7])[0][0] == "p7"


def test_a_gallery_that_is_made_while_a_replica_tends_is_not_forgotten(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with replicas(postgres_url, tmp_path, DATABASE, background=False) as (only,):
        only.galleries.put("old", None, None)
        listed = only.store.every_gallery

        def then_made():
            yield from listed()
            only.galleries.put("new", None, None)
            only.galleries.search("new", np.ones((1, 16), np.float32) / 4, 1, None)

        monkeypatch.setattr(only.store, "every_gallery", then_made)
        only.searchers.tend()
        assert only.store.gallery("new").key in only.searchers._open


def test_a_replica_waits_for_another_that_writes_vectors_however_long_that_takes(
    postgres_url: str, postgres_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = unit(RNG.standard_normal((3, 16)))
    with replicas(postgres_url, tmp_path, DATABASE) as (only,):
        only.galleries.put("g", None, None)
        only.galleries.import_persons("g", bulk(vectors))
    with psycopg.connect(postgres_url) as connection:
        connection.execute("DROP TABLE person_vectors_16")
    settings = database._SESSION.replace("'lock_timeout', '10s'", "'lock_timeout', '200ms'")
    assert settings != database._SESSION
    monkeypatch.setattr(database, "_SESSION", settings)
    with psycopg.connect(postgres_url) as holding, ThreadPoolExecutor(2) as pool:
        # Whoever writes vectors comes to this when the gallery is locked already.
        holding.execute("LOCK TABLE person_sizes IN EXCLUSIVE MODE")
        starting = [pool.submit(Replica, postgres_url, tmp_path, DATABASE, False) for _ in range(2)]
        wait_for_waiting(postgres_server, postgres_url, 2)
        time.sleep(0.4)
        holding.rollback()
        both = [started.result() for started in starting]
    try:
        for replica in both:
            assert [replica.found("g", vector)[0][0] for vector in vectors] == ["p0", "p1", "p2"]
    finally:
        for replica in both:
            replica.close()
