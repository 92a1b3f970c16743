"""Persons whose time is up are erased: by their own date, by their gallery's, and not by a clock that was set."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from service.gallery.gallery import Galleries
from service.gallery.records import NewFace
from service.gallery.store import Store
from service.gallery.store_bulk import BulkFace, BulkPerson
from service.retention import Retention
from service.security.audit_file import AuditFile, verify

START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.wall, self.steady = START, 0.0

    def passes(self, time: timedelta) -> None:
        self.wall += time
        self.steady += time.total_seconds()


@pytest.fixture
def galleries(store_in: Callable[[Path], Store], tmp_path: Path) -> Iterator[Galleries]:
    store = store_in(tmp_path)
    yield Galleries(store, "contract", 8)
    store.close()


def put(galleries: Galleries, gallery: str, person: str, expires: datetime | None, created: datetime = START) -> None:
    face = BulkFace(f"{person}.1", np.eye(1, 8, dtype=np.float32)[0])
    galleries.import_persons(gallery, [BulkPerson(person, None, {}, expires, created, (face,))])


def persons(galleries: Galleries, gallery: str) -> list[str]:
    return [person.id for person in galleries.store.persons(gallery).items]


def test_persons_are_erased_when_their_time_is_up(galleries: Galleries, tmp_path: Path) -> None:
    galleries.put("for-ever", None, None)
    galleries.put("month", None, None, 30)
    put(galleries, "for-ever", "stays", None)
    put(galleries, "for-ever", "hour", START + timedelta(hours=1))
    put(galleries, "month", "old", None)
    put(galleries, "month", "new", None, START + timedelta(days=1))
    put(galleries, "month", "hour2", START + timedelta(hours=1))
    clock, audit = Clock(), AuditFile(tmp_path / "audit", b"k" * 32)
    retention = Retention(galleries, audit, lambda: clock.wall, lambda: clock.steady)
    assert retention.sweep() == 0
    clock.passes(timedelta(hours=1))
    key = galleries.store.person("month", "hour2").key
    assert retention.sweep() == 2
    assert (persons(galleries, "for-ever"), persons(galleries, "month")) == (["stays"], ["new", "old"])
    with galleries.store._sessions.read() as connection:
        assert galleries.store.keys.within(connection).cipher(key) is None
    assert galleries.search("month", np.eye(1, 8, dtype=np.float32), 9, None).faces == 2
    clock.passes(timedelta(days=29, hours=23))
    assert retention.sweep() == 1
    assert persons(galleries, "month") == ["new"]
    galleries.put("month", None, None, None)
    clock.passes(timedelta(days=300))
    assert retention.sweep() == 0
    audit.close()
    assert verify(tmp_path / "audit", b"k" * 32).lines == 3
    assert '"actor":"retention","action":"delete_person"' in (tmp_path / "audit" / "audit.log").read_text()


def test_more_time_that_is_given_meanwhile_counts(galleries: Galleries, monkeypatch: pytest.MonkeyPatch) -> None:
    galleries.put("g", None, None)
    put(galleries, "g", "ann", START + timedelta(hours=1))
    clock = Clock()
    retention = Retention(galleries, None, lambda: clock.wall, lambda: clock.steady)
    clock.passes(timedelta(hours=2))
    due = galleries.store.due

    def then_extended(at: datetime, limit: int) -> list[tuple[str, str]]:
        found = due(at, limit)
        galleries.store.patch_person("g", "ann", {"expires_at": START + timedelta(days=9)})
        return found

    monkeypatch.setattr(galleries.store, "due", then_extended)
    assert retention.sweep() == 0
    assert persons(galleries, "g") == ["ann"]


def test_a_clock_that_is_set_forward_erases_nobody_for_an_hour(galleries: Galleries) -> None:
    galleries.put("g", None, None, 30)
    put(galleries, "g", "ann", START + timedelta(days=300))
    clock = Clock()
    retention = Retention(galleries, None, lambda: clock.wall, lambda: clock.steady)
    clock.wall += timedelta(days=3650)
    for _ in range(5):
        assert retention.sweep() == 0
        clock.passes(timedelta(minutes=10))
    clock.wall -= timedelta(days=3650)
    assert retention.sweep() == 0
    clock.passes(timedelta(minutes=1))
    assert retention.sweep() == 0
    assert persons(galleries, "g") == ["ann"]
    # A clock that stays where it was set is right.
    clock.wall += timedelta(days=3650)
    assert retention.sweep() == 0
    clock.passes(timedelta(minutes=61))
    assert retention.sweep() == 1


def test_galleries_of_another_contract_are_swept_too(galleries: Galleries) -> None:
    store = galleries.store
    store.put_gallery("old", None, None, "another", 8)
    store.put_person("old", "ann", expires_at=START)
    store.add_faces("old", "ann", [NewFace(np.ones(8, np.float32))])
    assert Retention(galleries, None).sweep() == 1
    assert persons(galleries, "old") == []
