"""Searching in PostgreSQL: exact to the last bit, with filters, through an index, and with what is left behind."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from service.gallery.records import NewFace
from service.gallery.store_bulk import BulkFace, BulkPerson
from service.postgres import search
from service.postgres.hnsw import Hnsw, index_name
from service.postgres.searchers import SearchPlan
from service.postgres.vector_tables import partition_name
from tests.service.postgres.replicas import DATABASE, counted, replicas, unit

RNG = np.random.default_rng(5)


def exact(vectors: np.ndarray, probe: np.ndarray, top_k: int) -> list[tuple[str, float]]:
    similarities = (vectors.astype(np.float64) * probe.astype(np.float64)).sum(axis=1)
    best = np.lexsort((np.arange(len(vectors)), -similarities))[:top_k]
    return [(f"p{i}", similarities[i]) for i in best]


def test_candidates_that_rounding_cannot_tell_apart_are_found_exactly(postgres_url: str, tmp_path: Path) -> None:
    """Thousands of persons within less of each other than float16 can say, the best ones anywhere among them."""
    centre = unit(RNG.standard_normal(16))
    near = unit(centre + 1e-4 * RNG.standard_normal((1500, 16)))
    far = unit(RNG.standard_normal((100, 16)))
    vectors = RNG.permutation(np.concatenate([near, far]))
    with replicas(postgres_url, tmp_path, DATABASE) as (only,):
        only.galleries.put("g", None, None)
        people = [BulkPerson(f"p{i}", faces=(BulkFace(f"f{i}", v),)) for i, v in enumerate(vectors)]
        only.galleries.import_persons("g", people)
        for probe in (centre, vectors[7], unit(RNG.standard_normal(16))):
            assert only.found("g", probe, 10) == exact(vectors, probe, 10)
        several = unit(RNG.standard_normal((3, 16)))
        found = only.galleries.search("g", several, 4, None).candidates
        told = [[(c.person.id, c.similarity) for c in candidates] for candidates in found]
        assert told == [exact(vectors, probe, 4) for probe in several]
        assert only.found("g", centre, 2000) == exact(vectors, centre, 2000)


def test_an_index_is_built_asked_and_dropped(postgres_url: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(search, "FEW_MATCHES", 10)
    vectors = unit(RNG.standard_normal((160, 16)))
    plan = SearchPlan("database", hnsw=Hnsw(150))
    with replicas(postgres_url, tmp_path, plan, background=False) as (only,):
        only.galleries.put("g", None, None)
        only.galleries.put("other", None, None)
        sites = [{"site": "north" if i % 4 else "south"} for i in range(160)]
        people = [BulkPerson(f"p{i}", metadata=sites[i], faces=(BulkFace(f"f{i}", v),)) for i, v in enumerate(vectors)]
        only.galleries.import_persons("g", people)
        through, compared = counted("database", "hnsw"), counted("database", "exact")
        assert only.found("g", vectors[0], 10) == exact(vectors, vectors[0], 10)
        assert (through(), compared()) == (0, 1)
        only.searchers.tend()
        assert only.found("g", vectors[0], 10) == exact(vectors, vectors[0], 10)
        assert (through(), compared()) == (1, 1)
        assert only.found("g", vectors[0], 10, exact=True) == exact(vectors, vectors[0], 10)
        assert (through(), compared()) == (1, 2)
        # Asked through the index for a filter, and for more than there are with it.
        south = [i for i in range(160) if i % 4 == 0]
        wanted = sorted(((f"p{i}", s) for i, s in _similar(vectors, vectors[1], south)), key=lambda pair: -pair[1])
        assert only.found("g", vectors[1], 10, where={"site": "south"}) == wanted[:10]
        assert only.found("g", vectors[1], 60, where={"site": "south"}) == wanted
        assert through() == 3
        # New persons are in the index when they are enrolled.
        new = unit(RNG.standard_normal(16))
        only.enrol("g", "new", new[None])
        assert only.found("g", new)[0][0] == "new"
        for i in range(90):
            only.galleries.delete_person("g", f"p{i}")
        only.searchers.tend()
        assert only.searchers.plan.hnsw.due(only.store.backend.sessions.engine, only.store.every_gallery()) == []
        assert "hnsw" not in _indexes(only)
        assert [person for person, _ in only.found("g", vectors[159])] == ["p159"]


def _similar(vectors: np.ndarray, probe: np.ndarray, some: list[int]) -> list[tuple[int, float]]:
    return [(i, float((vectors[i].astype(np.float64) * probe.astype(np.float64)).sum())) for i in some]


def _indexes(replica) -> str:
    with replica.store.backend.sessions.read() as connection:
        return str(connection.exec_driver_sql("SELECT indexdef FROM pg_indexes WHERE tablename ~ '^person_vec'").all())


def test_an_index_whose_build_was_cut_off_is_built_anew(postgres_url: str, postgres_server, tmp_path: Path) -> None:
    vectors = unit(RNG.standard_normal((50, 16)))
    with replicas(postgres_url, tmp_path, SearchPlan("database", hnsw=Hnsw(20)), background=False) as (only,):
        only.galleries.put("g", None, None)
        people = [BulkPerson(f"p{i}", faces=(BulkFace(f"f{i}", v),)) for i, v in enumerate(vectors)]
        only.galleries.import_persons("g", people)
        gallery, sessions = only.store.gallery("g"), only.store.backend.sessions
        partition = partition_name(16, gallery.key)
        with sessions.read() as connection, postgres_server.connect() as watching:
            # The build is nearly done, and waits for whoever might still see the table without the index.
            connection.exec_driver_sql(f"SELECT count(*) FROM {partition}")
            building = threading.Thread(target=only.searchers.tend)
            building.start()
            stop = "SELECT pg_cancel_backend(pid) FROM pg_stat_progress_create_index WHERE phase = %s"
            while not watching.execute(stop, ["waiting for old snapshots"]).fetchall():
                time.sleep(0.01)
        building.join()
        through = counted("database", "hnsw")
        assert index_name(gallery) in _indexes(only)
        assert only.found("g", vectors[3])[0][0] == "p3"
        assert through() == 0
        only.searchers.tend()
        assert only.found("g", vectors[3])[0][0] == "p3"
        assert through() == 1


def test_vectors_are_rotated_counted_and_gone_with_their_person(postgres_url: str, tmp_path: Path) -> None:
    first, second = unit(RNG.standard_normal((2, 16)))
    with replicas(postgres_url, tmp_path, DATABASE) as (only,):
        only.galleries.put("g", None, None)
        key = only.store.gallery("g").key
        only.enrol("g", "ann", first[None])
        only.enrol("g", "ben", np.stack([first, second]))

        def rows() -> dict[int, np.ndarray]:
            with only.store.backend.sessions.read() as connection:
                found = connection.exec_driver_sql(f"SELECT faces, vector::text FROM person_vectors_16_{key}").all()
            return {row[0]: np.array(row[1].strip("[]").split(","), np.float64) for row in found}

        stored = rows()
        assert sorted(stored) == [1, 2]
        # Of unit length, the angles kept, and not the template.
        mean = unit((first + second)[None])[0]
        assert stored[1] @ stored[2] == pytest.approx(float(first @ mean), abs=2e-3)
        assert abs(stored[1] @ first) < 0.9
        only.galleries.delete_face("g", "ben", "ben-0")
        assert only.found("g", second, 2)[0] == ("ben", (second.astype(np.float64) ** 2).sum())
        only.galleries.delete_face("g", "ben", "ben-1")
        assert [person for person, _ in only.found("g", second, 2)] == ["ann"]
        only.galleries.delete_person("g", "ann")
        assert rows() == {}
        only.galleries.delete("g")
        assert f"person_vectors_16_{key}" not in _indexes(only)


@pytest.mark.parametrize("lost", ["older than they", "restored without them"])
def test_the_vectors_of_a_gallery_that_has_none_are_written_at_the_start(
    postgres_url: str, tmp_path: Path, lost: str
) -> None:
    vectors = unit(RNG.standard_normal((3, 16)))
    with replicas(postgres_url, tmp_path, DATABASE) as (only,):
        only.galleries.put("g", None, None)
        only.enrol("g", "ann", vectors[:2])
        only.enrol("g", "ben", vectors[2:])
        only.store.put_person("g", "nobody")
        before = only.found("g", vectors[0], 5)
        with only.store.backend.sessions.write() as connection:
            if lost == "older than they":
                only.store.backend.projection.condemned(connection, only.store.gallery("g").key)
            connection.exec_driver_sql("DROP TABLE person_vectors_16")
    with replicas(postgres_url, tmp_path, DATABASE, background=False) as (again,):
        assert again.found("g", vectors[0], 5) == before
        again.galleries.enrol("g", "ben", [NewFace(vectors[0], "more")], None, lambda _: {})
        assert again.galleries.search("g", vectors[:1], 1, None).sizes == {2: 2}
