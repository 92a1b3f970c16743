"""How replicas follow each other: what is cut from the list of changes, and what they are told all at once."""

from pathlib import Path

import numpy as np
import pytest

from service.postgres import changes
from tests.postgres_server import PostgresServer
from tests.service.postgres.replicas import DATABASE, MEMORY, Replica, bulk, replicas, unit
from tests.service.postgres.waiting import listening, wait_for

RNG = np.random.default_rng(13)


def kept(replica: Replica) -> int:
    with replica.store.backend.sessions.read() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM changes").scalar_one())


def test_the_list_is_cut_whatever_revisions_changes_of_faces_have(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "KEPT", 4)
    monkeypatch.setattr(changes, "CUT_EVERY", 2)
    vectors = unit(RNG.standard_normal((50, 16)))
    for first in (0, 1):
        with replicas(postgres_url, tmp_path, DATABASE, background=False) as (only,):
            gallery = f"g{first}"
            only.galleries.put(gallery, None, None)
            if first:
                only.store.put_person(gallery, "one-more")
            before = kept(only)
            for number, vector in enumerate(vectors):
                # Making the person is a revision, and the face is one.
                only.enrol(gallery, f"p{number}", vector[None], prefix=gallery)
            # Of 50; that no cut at all comes in 30 changes is one of 2^30.
            assert kept(only) - before < 4 + 30


def test_what_is_cut_while_a_replica_compares_all_faces_is_not_missed(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "KEPT", 2)
    monkeypatch.setattr(changes, "CUT_EVERY", 1)
    vectors = unit(RNG.standard_normal((10, 16)))
    with replicas(postgres_url, tmp_path, DATABASE, MEMORY, background=False) as (writer, other):
        writer.galleries.put("g", None, None)
        writer.galleries.import_persons("g", bulk(vectors[:4]))
        templates, once = other.store.templates, [True]

        def meanwhile(key: int, after: int = 0):
            yield from templates(key, after)
            if once and once.pop():
                for number in range(4, 10):
                    writer.enrol("g", f"p{number}", vectors[number][None])
                writer.galleries.delete_person("g", "p0")

        monkeypatch.setattr(other.store, "templates", meanwhile)
        other.get_in_step("g")
        assert kept(writer) == 2
        assert other.follower("g").ready
        assert other.follower("g").revision == writer.store.gallery("g").revision
        assert [other.found("g", vector)[0][0] for vector in vectors[1:]] == [f"p{n}" for n in range(1, 10)]
        assert "p0" not in dict(other.found("g", vectors[0], 10))


def test_many_changes_are_one_thing_to_do_and_the_last_one_is_not_missed(
    postgres_url: str, postgres_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the replica is busy with something else: its thread that follows is not running yet."""
    vectors = unit(RNG.standard_normal((3, 16)))
    with replicas(postgres_url, tmp_path, DATABASE, MEMORY, background=False) as (writer, other):
        for gallery in ("g", "h"):
            writer.galleries.put(gallery, None, None)
            writer.enrol(gallery, "a", vectors[:1], prefix=gallery)
            other.get_in_step(gallery)
        searchers, heard = other.searchers, []
        monkeypatch.setattr(searchers.wakes, "_heard", lambda key: (searchers._heard(key), heard.append(key)))
        waiting = searchers._work
        while not waiting.empty():
            waiting.get()
        for gallery in ("g", "h"):
            other.galleries._open[other.store.gallery(gallery).key].get_in_step()
        searchers.wakes.start()
        wait_for(lambda: listening(postgres_server, postgres_url) == 1)
        keys = {gallery: writer.store.gallery(gallery).key for gallery in ("g", "h")}
        for _ in range(60):
            writer.searchers.wakes.tell(keys["g"])
        writer.enrol("g", "b", vectors[1:2])
        wait_for(lambda: heard.count(keys["g"]) == 61)
        # Each gallery once: all may have changed before it listened, and g has since.
        assert waiting.qsize() == 2

        # What comes while it follows is one-more thing to do.
        follower = other.follower("g")
        catch_up = follower.catch_up

        def then_changed() -> None:
            catch_up()
            writer.enrol("g", "c", vectors[2:])
            wait_for(lambda: heard.count(keys["g"]) == 62)

        with monkeypatch.context() as patch:
            patch.setattr(follower, "catch_up", then_changed)
            other.galleries._open[keys["g"]].get_in_step()
        assert (len(follower), waiting.qsize()) == (2, 3)
        for thread in searchers._threads:
            thread.start()
        wait_for(lambda: len(follower) == 3)
