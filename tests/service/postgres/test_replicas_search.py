"""Replicas on one database: what one has written, the others find at once, in the database and in memory."""

import threading
from pathlib import Path

import numpy as np
import pytest

from service.errors import GalleryNotFound
from service.gallery.records import NewFace
from service.postgres import changes
from service.postgres.hnsw import Hnsw
from service.postgres.searchers import SearchPlan
from tests.service.postgres.replicas import DATABASE, MEMORY, bulk, counted, replicas, unit
from tests.service.postgres.waiting import listening, wait_for

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("reader", [DATABASE, MEMORY], ids=["database", "memory"])
def test_each_write_is_seen_by_another_replica_at_once(postgres_url: str, tmp_path: Path, reader: SearchPlan) -> None:
    vectors = unit(RNG.standard_normal((30, 16)))
    with replicas(postgres_url, tmp_path, DATABASE, reader) as (writer, other):
        writer.galleries.put("g", None, None)
        assert other.found("g", vectors[0]) == []
        other.get_in_step("g")
        in_memory = counted("memory", "exact")
        for i, vector in enumerate(vectors):
            writer.enrol("g", f"p{i}", vector[None])
            assert other.found("g", vector)[0] == (f"p{i}", (vector.astype(np.float64) ** 2).sum())
            result = other.galleries.search("g", vector[None], 1, None)
            assert (result.persons, result.faces, result.sizes) == (i + 1, i + 1, {1: i + 1})
        writer.galleries.enrol("g", "p0", [NewFace(vectors[1], "second")], None, lambda _: {})
        assert other.galleries.search("g", vectors[:1], 1, None).sizes == {1: 29, 2: 1}
        writer.galleries.delete_face("g", "p0", "second")
        for i in range(0, 30, 3):
            writer.galleries.delete_person("g", f"p{i}")
            assert f"p{i}" not in dict(other.found("g", vectors[i], 30))
        assert in_memory() == (0 if reader is DATABASE else 30 * 2 + 1 + 10)
        writer.galleries.delete("g")
        with pytest.raises(GalleryNotFound):
            other.found("g", vectors[0])
        # Of the same name, and empty.
        writer.galleries.put("g", None, None)
        assert other.found("g", vectors[1]) == []


@pytest.mark.parametrize("reader", [DATABASE, MEMORY], ids=["database", "memory"])
def test_searches_beside_writes_of_two_replicas_miss_nothing(
    postgres_url: str, tmp_path: Path, reader: SearchPlan
) -> None:
    stay = unit(RNG.standard_normal((20, 16)))
    with replicas(postgres_url, tmp_path, DATABASE, reader) as both:
        both[0].galleries.put("g", None, None)
        both[0].galleries.import_persons("g", bulk(stay, "stay"))
        both[1].get_in_step("g")
        ending, failed, searched = threading.Event(), [], [0]

        def write(number: int) -> None:
            rng = np.random.default_rng(number)
            for i in range(15):
                own, id = unit(rng.standard_normal(16)), f"w{number}-{i}"
                both[number].enrol("g", id, own[None])
                for replica in both:
                    if replica.found("g", own)[0][0] != id:
                        failed.append(f"{id} was enrolled and not found")
                both[number].galleries.delete_person("g", id)
                for replica in both:
                    if id in dict(replica.found("g", own, 60)):
                        failed.append(f"{id} was deleted and found")

        def search() -> None:
            while not ending.is_set():
                number = searched[0] % len(stay)
                searched[0] += 1
                if both[1].found("g", stay[number])[0][0] != f"stay{number}":
                    failed.append(f"stay{number} was not found")

        threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
        reading = threading.Thread(target=search)
        reading.start()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ending.set()
        reading.join()
        assert failed == []
        assert searched[0] > 10
        assert both[0].store.gallery("g").faces == 20


def test_a_replica_whose_listening_is_cut_off_stays_right_and_hears_again(
    postgres_url: str, postgres_server, tmp_path: Path
) -> None:
    first, second, third = unit(RNG.standard_normal((3, 16)))
    with replicas(postgres_url, tmp_path, DATABASE, MEMORY) as (writer, other):
        writer.galleries.put("g", None, None)
        writer.enrol("g", "a", first[None])
        other.get_in_step("g")
        follower = other.follower("g")
        # Nobody searches: it heard of it.
        writer.enrol("g", "b", second[None])
        wait_for(lambda: len(follower) == 2)
        with postgres_server.connect() as connection:
            cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%%' AND datname = %s"
            assert len(connection.execute(cut, [postgres_url.rsplit("/", 1)[1]]).fetchall()) == 2
        writer.enrol("g", "c", third[None])
        assert other.found("g", third)[0][0] == "c"
        # And again, after it has connected anew.
        wait_for(lambda: listening(postgres_server, postgres_url) == 2)
        writer.galleries.delete_person("g", "a")
        wait_for(lambda: len(follower) == 2)


def test_far_behind_the_database_answers_while_memory_is_brought_in_step(
    postgres_url: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(changes, "KEPT", 4)
    monkeypatch.setattr(changes, "CUT_EVERY", 1)
    vectors = unit(RNG.standard_normal((30, 16)))
    with replicas(postgres_url, tmp_path, DATABASE, MEMORY, background=False) as (writer, other):
        writer.galleries.put("g", None, None)
        writer.galleries.import_persons("g", bulk(vectors[:10]))
        other.get_in_step("g")
        assert len(other.follower("g")) == 10
        for i in range(10, 30):
            writer.enrol("g", f"p{i}", vectors[i][None])
            writer.galleries.delete_person("g", f"p{i - 10}")
        in_database, in_memory = counted("database", "exact"), counted("memory", "exact")
        assert other.found("g", vectors[29])[0][0] == "p29"
        assert not other.follower("g").ready
        assert other.found("g", vectors[29])[0][0] == "p29"
        assert (in_database(), in_memory()) == (2, 0)
        other.get_in_step("g")
        assert other.found("g", vectors[29])[0][0] == "p29"
        assert in_memory() == 1
        assert len(other.follower("g")) == 10


def test_what_happens_while_a_replica_compares_all_faces_is_not_missed(
    postgres_url: str, tmp_path: Path, monkeypatch
) -> None:
    vectors = unit(RNG.standard_normal((4, 16)))
    with replicas(postgres_url, tmp_path, DATABASE, MEMORY, background=False) as (writer, other):
        writer.galleries.put("g", None, None)
        writer.galleries.import_persons("g", bulk(vectors[:2]))
        templates = other.store.templates

        def meanwhile(key: int, after: int = 0):
            yield from templates(key, after)
            writer.enrol("g", "later", vectors[2][None])
            writer.galleries.delete_person("g", "p0")

        monkeypatch.setattr(other.store, "templates", meanwhile)
        other.get_in_step("g")
        assert other.follower("g").revision == writer.store.gallery("g").revision
        in_memory = counted("memory", "exact")
        assert [other.found("g", vectors[i])[0][0] for i in (1, 2)] == ["p1", "later"]
        assert "p0" not in dict(other.found("g", vectors[0], 10))
        assert in_memory() == 3


def test_what_does_not_fit_the_memory_is_searched_in_the_database(postgres_url: str, tmp_path: Path) -> None:
    vectors = unit(RNG.standard_normal((300, 16)))
    with replicas(postgres_url, tmp_path, MEMORY, background=False) as (only,):
        only.searchers.room.total = 400 * 16 * 5
        only.galleries.put("large", None, None)
        only.galleries.put("small", None, None)
        only.galleries.import_persons("small", bulk(vectors[:3], "s"))
        only.galleries.import_persons("large", bulk(vectors))
        only.get_in_step("small")
        only.get_in_step("large")
        in_database, in_memory = counted("database", "exact"), counted("memory", "exact")
        assert only.found("small", vectors[0])[0][0] == "s0"
        assert only.found("large", vectors[7])[0][0] == "p7"
        assert (in_database(), in_memory()) == (0, 2)
        # It grows over what there is.
        only.galleries.import_persons("large", bulk(unit(RNG.standard_normal((100, 16))), "q"))
        assert only.found("large", vectors[7])[0][0] == "p7"
        assert (in_database(), in_memory()) == (1, 2)
        assert not only.follower("large").ready
        assert only.searchers.room.taken == 3 * 16 * 5


def test_small_galleries_stay_in_the_database_on_a_cpu(postgres_url: str, tmp_path: Path) -> None:
    with replicas(postgres_url, tmp_path, SearchPlan("auto", hnsw=Hnsw(0)), background=False) as (only,):
        only.galleries.put("g", None, None)
        only.galleries.import_persons("g", bulk(unit(RNG.standard_normal((3, 16)))))
        only.get_in_step("g")
        assert not only.follower("g").ready
        only.galleries.import_persons("g", bulk(unit(RNG.standard_normal((2000, 16))), "q"))
        only.get_in_step("g")
        assert only.follower("g").ready
