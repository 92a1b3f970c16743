"""The chain: every removed, changed, moved or added line is found; crashes and full disks are not taken for one."""

import json
import threading
from pathlib import Path

import pytest

from service.errors import InsufficientStorage
from service.security import audit_file
from service.security.audit_file import AuditFile, verify
from service.security.audit_log import AuditBroken, Event

KEY = bytes(range(32))


def written(folder: Path, count: int = 6) -> list[bytes]:
    log = AuditFile(folder, KEY)
    for n in range(count):
        log.append(Event("key1", "search", "g", details={"found": [f"p{n}"]}), durable=n % 2 == 0)
    log.close()
    return (folder / "audit.log").read_bytes().splitlines(keepends=True)


def test_lines_tell_what_happened_and_verify(tmp_path: Path) -> None:
    log = AuditFile(tmp_path, KEY)
    assert verify(tmp_path, KEY).lines == 0
    receipt = log.append(Event("key1", "delete_person", "g", "p\n1", status=204, request_id="r"), durable=True)
    log.append(Event("key2", "search", "g", details={"found": ["a", "b"]}), durable=False)
    assert verify(tmp_path, KEY, str(receipt)).lines == 2
    first, second = map(json.loads, (tmp_path / "audit.log").read_text().split())
    assert first.pop("mac") == receipt.mac
    assert first == {
        "seq": 1,
        "at": receipt.at,
        "actor": "key1",
        "action": "delete_person",
        "gallery": "g",
        "person": "p\n1",
        "status": 204,
        "request_id": "r",
    }
    assert second["details"] == {"found": ["a", "b"]}
    log.close()
    again = AuditFile(tmp_path, KEY)
    assert again.append(Event("x", "y"), durable=True).seq == 3
    again.close()
    with pytest.raises(AuditBroken, match="no line 9:00"):
        verify(tmp_path, KEY, "9:00")
    with pytest.raises(AuditBroken):
        verify(tmp_path, bytes(32))


@pytest.mark.parametrize("line", range(6))
def test_every_change_of_every_line_is_found(tmp_path: Path, line: int) -> None:
    lines = written(tmp_path)
    path = tmp_path / "audit.log"
    changed = lines[line].replace(f'"p{line}"'.encode(), b'"px"')
    swapped = [*lines]
    swapped[line], swapped[line - 1] = swapped[line - 1], swapped[line]
    for bad, named in (
        ([*lines[:line], *lines[line + 1 :]], line + 1),
        ([*lines[:line], changed, *lines[line + 1 :]], line + 1),
        ([*lines[: line + 1], lines[line], *lines[line + 1 :]], line + 2),
        (swapped, min(line, (line - 1) % 6) + 1),
        (lines[:line], line + 1),
    ):
        path.write_bytes(b"".join(bad))
        with pytest.raises(AuditBroken) as broken:
            verify(tmp_path, KEY)
        assert broken.value.details["line"] == named
    path.write_bytes(b"".join(lines[:line]))
    with pytest.raises(AuditBroken):
        AuditFile(tmp_path, KEY)


def test_a_head_that_is_removed_or_older_is_found(tmp_path: Path) -> None:
    lines = written(tmp_path)
    head = (tmp_path / "audit.head").read_bytes()
    for bad in (b"", head[:50], bytes(len(head))):
        (tmp_path / "audit.head").write_bytes(bad)
        with pytest.raises(AuditBroken, match=r"audit\.head"):
            verify(tmp_path, KEY)
    (tmp_path / "audit.head").unlink()
    with pytest.raises(AuditBroken):
        verify(tmp_path, KEY)
    (tmp_path / "audit.head").write_bytes(head)
    # One of its two places is damaged, as by a crash: the other one is a line or two behind.
    (tmp_path / "audit.head").write_bytes(head[:512] + bytes(len(head) - 512))
    assert verify(tmp_path, KEY).lines == len(lines)


@pytest.mark.parametrize("tail", [b"", b'{"seq":7,"at', b"\0" * 300, b"garbage\nmore garbage\n"])
def test_what_a_crash_left_behind_the_synced_lines_is_taken_away(tmp_path: Path, tail: bytes) -> None:
    lines = written(tmp_path)
    with (tmp_path / "audit.log").open("ab") as stream:
        stream.write(tail)
    log = AuditFile(tmp_path, KEY)
    assert log.append(Event("x", "y"), durable=True).seq == 7
    log.close()
    assert verify(tmp_path, KEY).lines == 7
    assert (tmp_path / "audit.log").read_bytes().splitlines(keepends=True)[:6] == lines


def test_on_a_full_disk_searches_go_on_for_a_while_and_deletions_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_file, "ROOM_BYTES", 3000)
    monkeypatch.setattr(audit_file, "LAST_ROOM_BYTES", 1000)
    log = AuditFile(tmp_path, KEY)
    log.require_room()
    size = (tmp_path / "audit.log").stat().st_size
    write = audit_file.RawFile.write

    def full(self: audit_file.RawFile, offset: int, content: bytes) -> None:
        if offset + len(content) > size:
            raise OSError(28, "No space left on device")
        write(self, offset, content)

    counts = {"search": 0, "delete_person": 0}
    with monkeypatch.context() as patch:
        patch.setattr(audit_file.RawFile, "write", full)
        for action in counts:
            with pytest.raises(InsufficientStorage, match="full"):  # noqa: PT012
                for _ in range(100):
                    log.append(Event("x", action), durable=False, deletes=action == "delete_person")
                    counts[action] += 1
            with pytest.raises(InsufficientStorage, match="nothing was done"):
                log.require_room()
    assert all(count > 3 for count in counts.values())
    log.require_room()
    log.append(Event("x", "search"), durable=True)
    assert verify(tmp_path, KEY).lines == sum(counts.values()) + 1
    log.close()
    assert verify(tmp_path, KEY).lines == sum(counts.values()) + 1
    assert (tmp_path / "audit.log").read_bytes().endswith(b'"}\n')


def test_many_threads_make_one_chain(tmp_path: Path) -> None:
    log = AuditFile(tmp_path, KEY)

    def work(name: str) -> None:
        for n in range(50):
            log.append(Event(name, "search"), durable=n % 5 == 0)

    threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verify(tmp_path, KEY).lines == 400
    log.close()
    assert verify(tmp_path, KEY).lines == 400
