"""The folder of backups: what is the same is kept once, every backup is whole, damage is found."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.backup.archive import PIECE_BYTES, Archive, BackupDamaged, iso, moment_of
from service.errors import InvalidRequest
from service.files import FolderInUse

T0 = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "archive")


def add(archive: Archive, content: bytes, at: datetime, keep: int | None = None) -> int:
    source = archive.folder.with_name("source")
    source.write_bytes(content)
    with archive.changing():
        _, new = archive.add(source, at, {})
        archive.prune(keep)
    return new


def test_what_has_not_changed_is_kept_once(archive: Archive, tmp_path: Path) -> None:
    first = os.urandom(5 * PIECE_BYTES + 100)
    second = first[: 2 * PIECE_BYTES] + os.urandom(PIECE_BYTES) + first[3 * PIECE_BYTES :] + b"more"
    assert add(archive, first, T0) == len(first)
    assert add(archive, second, T0 + timedelta(minutes=5)) == PIECE_BYTES + 104
    assert add(archive, second, T0 + timedelta(minutes=10)) == 0
    for moment, content in ((T0, first), (T0 + timedelta(minutes=9), second), (None, second)):
        to = tmp_path / f"restored-{moment}"
        archive.write(archive.at(moment), to)
        assert to.read_bytes() == content
        assert to.stat().st_mode & 0o777 == 0o600
    assert all(path.stat().st_mode & 0o077 == 0 for path in archive.folder.rglob("*"))


def test_old_backups_go_and_the_others_stay_whole(archive: Archive, tmp_path: Path) -> None:
    contents = [os.urandom(PIECE_BYTES) for _ in range(4)]
    for number in range(4):
        add(archive, b"".join(contents[: number + 1]), T0 + timedelta(hours=number))
    add(archive, contents[3], T0 + timedelta(hours=4), keep=2)
    assert [backup.at.hour for backup in archive.all()] == [15, 16]
    archive.write(archive.at(T0 + timedelta(hours=3)), tmp_path / "restored")
    assert (tmp_path / "restored").read_bytes() == b"".join(contents)
    with archive.changing():
        archive.prune(1)
    pieces = list((archive.folder / "pieces").glob("*/*"))
    assert [path.read_bytes() for path in pieces] == [contents[3]]


def test_there_is_nothing_before_the_first(archive: Archive) -> None:
    with pytest.raises(InvalidRequest, match="no backup"):
        archive.at(None)
    add(archive, b"x", T0)
    with pytest.raises(InvalidRequest, match="2026-11-24T11:59:59.000Z or before"):
        archive.at(T0 - timedelta(seconds=1))


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_piece_is_found(archive: Archive, tmp_path: Path, damage: str) -> None:
    add(archive, os.urandom(3 * PIECE_BYTES), T0)
    piece = sorted((archive.folder / "pieces").glob("*/*"))[1]
    content = piece.read_bytes()
    if damage == "gone":
        piece.unlink()
    else:
        piece.write_bytes(bytes([content[0] ^ 1]) + content[1:] if damage == "flip" else content[:-1])
    with pytest.raises(BackupDamaged, match=piece.name):
        archive.write(archive.at(None), tmp_path / "restored")


def test_a_backup_that_was_cut_off_is_none(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    add(archive, b"first", T0)
    with monkeypatch.context() as patch:
        patch.setattr("service.backup.archive.replace_file", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            add(archive, b"second", T0 + timedelta(hours=1))
    assert len(archive.all()) == 1
    add(archive, b"third", T0 + timedelta(hours=2))
    assert len(list((archive.folder / "pieces").glob("*/*"))) == 2, "what the one cut off has left is gone"
    next(archive.folder.glob("*.json")).write_text("{")
    with pytest.raises(BackupDamaged):
        archive.all()


def test_one_at_a_time(archive: Archive) -> None:
    with archive.changing(), pytest.raises(FolderInUse), archive.changing():
        pass


def test_times() -> None:
    assert iso(moment_of("2026-11-24T13:00:00+01:00")) == "2026-11-24T12:00:00.000Z"
    assert moment_of("2026-11-24 12:00") == T0
    with pytest.raises(InvalidRequest, match="yesterday"):
        moment_of("yesterday")
