"""The keys of persons: made, found again, destroyed, and wrapped anew; and the places a master key comes from."""

import os
import stat
import sys
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag

from service.files import FolderInUse
from service.security import key_file
from service.security.envelope import seal, unseal
from service.security.key_file import DESTROYED, LIVE, NEVER, RECORD, KeyFile, KeyFileError, new_name, read_secret
from service.security.master_key import CommandPlace, FilePlace, GivenPlace, MasterKey, MasterKeyError


def place(folder: Path) -> FilePlace:
    return FilePlace(folder / "master.key")


def opened(folder: Path) -> KeyFile:
    return KeyFile.open(folder, place(folder))


def sealed_for(keys: KeyFile, person: int) -> bytes:
    cipher = keys.cipher(person)
    assert cipher is not None
    return seal(cipher, b"face", b"")


def test_keys_are_found_again_and_differ(tmp_path: Path) -> None:
    keys = opened(tmp_path / "keys")
    secret, id = keys.secret, keys.id
    names = {person: new_name() for person in (1, 2, 3, 200, 9)}
    keys.add(names)
    sealed = {person: sealed_for(keys, person) for person in names}
    keys.close()
    keys.close()
    keys = opened(tmp_path / "keys")
    assert (keys.secret, keys.id) == (secret, id)
    assert set(keys.ciphers([*names, 4, 5000])) == set(names)
    for person, cipher in keys.ciphers(list(names)).items():
        for other, content in sealed.items():
            if other == person:
                assert unseal(cipher, content, b"") == b"face"
            else:
                with pytest.raises(InvalidTag):
                    unseal(cipher, content, b"")
    slots = keys.slots()
    assert [slots.states[person - 1] for person in (1, 4, 200)] == [LIVE, NEVER, LIVE]
    assert {person: slots.names[person - 1].tobytes() for person in names} == names
    keys.close()
    files = [path for path in (tmp_path / "keys").iterdir() if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_a_destroyed_key_is_overwritten_where_it_lay(tmp_path: Path) -> None:
    keys = opened(tmp_path)
    keys.add({person: new_name() for person in range(1, 20)})
    raw = (tmp_path / "persons.keys").read_bytes()
    keys.destroy([3, 7, 8, 5000])
    after = (tmp_path / "persons.keys").read_bytes()
    assert len(after) == len(raw)
    changed = {at // RECORD - 7 for at in range(len(raw)) if raw[at] != after[at]}
    assert changed == {3, 7, 8}
    for person in changed:
        assert after[(7 + person) * RECORD :][:RECORD] == bytes([DESTROYED]) + bytes(RECORD - 1)
        assert keys.cipher(person) is None
    assert set(keys.ciphers(range(1, 20))) == set(range(1, 20)) - changed
    keys.close()


def test_a_slot_in_another_place_or_changed_does_not_open(tmp_path: Path) -> None:
    keys = opened(tmp_path)
    keys.add({1: new_name(), 2: new_name()})
    path = tmp_path / "persons.keys"
    raw = bytearray(path.read_bytes())
    one, two = raw[8 * RECORD : 9 * RECORD], raw[9 * RECORD : 10 * RECORD]
    for slot in (two, one[:-1] + bytes([one[-1] ^ 1])):
        with path.open("r+b") as stream:
            stream.seek(8 * RECORD)
            stream.write(slot)
        with pytest.raises(KeyFileError, match="Record 8"):
            keys.cipher(1)
    assert keys.cipher(2) is not None
    keys.close()


def test_nothing_of_the_secrets_is_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bytes] = []
    random = os.urandom
    monkeypatch.setattr(key_file.os, "urandom", lambda n: made.append(random(n)) or made[-1])
    keys = opened(tmp_path)
    keys.add({1: new_name()})
    raw = (tmp_path / "persons.keys").read_bytes()
    assert len([secret for secret in made if len(secret) == 32]) >= 2
    assert not any(secret in raw for secret in made if len(secret) == 32)
    keys.close()


def test_one_process_at_a_time_but_the_secret_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="not been started"):
        read_secret(tmp_path, place(tmp_path))
    keys = opened(tmp_path)
    with pytest.raises(FolderInUse, match=str(tmp_path)):
        opened(tmp_path)
    assert read_secret(tmp_path, place(tmp_path)) == keys.secret
    keys.close()


def test_a_rotation_wraps_all_keys_anew(tmp_path: Path) -> None:
    keys = opened(tmp_path)
    keys.add({person: new_name() for person in range(1, 100)})
    keys.destroy([5])
    sealed, names, secret = sealed_for(keys, 42), keys.slots().names, keys.secret
    before = (tmp_path / "persons.keys").read_bytes()
    old = place(tmp_path).read(may_make=False)
    assert keys.rotate(place(tmp_path), MasterKey.new()) == 98
    keys.close()
    keys = opened(tmp_path)
    cipher = keys.cipher(42)
    assert cipher is not None
    assert unseal(cipher, sealed, b"") == b"face"
    assert keys.secret == secret
    assert (keys.slots().names == names).all()
    assert keys.cipher(5) is None
    keys.close()
    (new,) = place(tmp_path).read(may_make=False)
    assert new != old[0]
    # A copy of the keys from before is worth nothing any more.
    (tmp_path / "persons.keys").write_bytes(before)
    with pytest.raises(MasterKeyError, match=old[0].name):
        opened(tmp_path)


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_a_rotation_that_was_cut_off_leaves_keys_that_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    """Before the master keys are kept, before the keys are in place, and before the old master key is let go."""
    keys = opened(tmp_path)
    keys.add({1: new_name()})
    sealed = sealed_for(keys, 1)
    calls = 0

    def counted(work):
        def run(*args):
            nonlocal calls
            calls += 1
            if calls == fails_at:
                raise KeyboardInterrupt
            return work(*args)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(FilePlace, "keep", counted(FilePlace.keep))
        patch.setattr(key_file, "replace_file", counted(key_file.replace_file))
        with pytest.raises(KeyboardInterrupt):
            keys.rotate(place(tmp_path), MasterKey.new())
    keys.close()
    keys = opened(tmp_path)
    cipher = keys.cipher(1)
    assert cipher is not None
    assert unseal(cipher, sealed, b"") == b"face"
    assert len(place(tmp_path).read(may_make=False)) == 1
    keys.close()


def test_master_keys_from_elsewhere(tmp_path: Path) -> None:
    master = MasterKey.new()
    given = GivenPlace(master.text())
    keys = KeyFile.open(tmp_path, given)
    keys.close()
    assert not (tmp_path / "master.key").exists()
    printing = f"{sys.executable} -c \"print('{master.text()}')\""
    KeyFile.open(tmp_path, CommandPlace(printing)).close()
    with pytest.raises(MasterKeyError, match=f"{master.name}.*LIKENESS_MASTER_KEY"):
        KeyFile.open(tmp_path, GivenPlace(MasterKey.new().text()))
    for broken in ("", "short", "A" * 43 + "=!", master.text()[:-4]):
        with pytest.raises(MasterKeyError, match="base64 of 32 bytes"):
            KeyFile.open(tmp_path, GivenPlace(broken))
    for command in ("/nowhere", f"{sys.executable} -c 'raise SystemExit(\"no such secret\")'", "'"):
        with pytest.raises(MasterKeyError, match="command"):
            KeyFile.open(tmp_path, CommandPlace(command))
    assert master.text() not in repr(given) + repr(master)


def test_a_master_key_that_is_lost_is_never_made_anew(tmp_path: Path) -> None:
    opened(tmp_path).close()
    (tmp_path / "master.key").unlink()
    with pytest.raises(MasterKeyError, match="missing"):
        opened(tmp_path)
    assert not (tmp_path / "master.key").exists()
    (tmp_path / "master.key").write_text("\n")
    with pytest.raises(MasterKeyError, match="empty"):
        opened(tmp_path)


@pytest.mark.parametrize("content", [b"", b"LIKEKEYS", b"x" * 1000, b"LIKEKEYS\0\0\0\x63".ljust(600, b"\0")])
def test_a_file_that_is_none_of_ours(tmp_path: Path, content: bytes) -> None:
    opened(tmp_path).close()
    (tmp_path / "persons.keys").write_bytes(content)
    with pytest.raises(KeyFileError, match=r"persons\.keys"):
        opened(tmp_path)
