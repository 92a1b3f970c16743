"""``likeness keys`` on a real data folder."""

import json
from pathlib import Path

import numpy as np
import pytest

from service.cli.main import EXIT_UNAVAILABLE, main
from service.gallery.records import NewFace
from service.gallery.store import Store
from service.security.key_file import KeyFile
from service.security.master_key import FilePlace, GivenPlace, MasterKey, MasterPlace


def opened(folder: Path, place: MasterPlace) -> Store:
    return Store.open(folder / "gallery" / "gallery.db", 2**16, KeyFile.open(folder / "keys", place))


def filled(folder: Path, place: MasterPlace) -> Store:
    store = opened(folder, place)
    store.put_gallery("g", None, None, "contract", 4)
    store.put_person("g", "ann")
    store.add_faces("g", "ann", [NewFace(np.eye(1, 4, dtype=np.float32)[0])])
    return store


def test_the_master_key_in_a_file_is_rotated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = FilePlace(tmp_path / "keys" / "master.key")
    command = ["keys", "rotate-master", "--data-dir", str(tmp_path), "--json"]
    assert main(command) == EXIT_UNAVAILABLE
    assert not (tmp_path / "keys" / "persons.keys").exists()
    store = filled(tmp_path, place)
    before = place.read(may_make=False)
    assert main(command) == EXIT_UNAVAILABLE, "the service has it open"
    store.close()
    capsys.readouterr()
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    (after,) = place.read(may_make=False)
    assert after != before[0]
    assert (told["persons"], told["master_key"]) == (1, after.name)
    store = opened(tmp_path, place)
    assert store.embeddings("g", "ann").tolist() == [[1, 0, 0, 0]]
    store.close()


def test_a_master_key_of_the_environment_is_rotated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = MasterKey.new(), MasterKey.new()
    filled(tmp_path, GivenPlace(old.text())).close()
    monkeypatch.setenv("LIKENESS_MASTER_KEY", old.text())
    command = ["keys", "rotate-master", "--data-dir", str(tmp_path)]
    assert main(command) == EXIT_UNAVAILABLE
    assert "LIKENESS_NEW_MASTER_KEY" in capsys.readouterr().err
    monkeypatch.setenv("LIKENESS_NEW_MASTER_KEY", new.text())
    assert main(command) == 0
    out = capsys.readouterr()
    assert new.name in out.out
    assert old.text() not in out.out + out.err
    assert new.text() not in out.out + out.err
    assert main(command) == EXIT_UNAVAILABLE, "the old one is worth nothing any more"
    store = opened(tmp_path, GivenPlace(new.text()))
    assert store.embeddings("g", "ann").tolist() == [[1, 0, 0, 0]]
    store.close()
    monkeypatch.setenv("LIKENESS_MASTER_KEY_COMMAND", "true")
    assert main(command) == EXIT_UNAVAILABLE
    assert "Set one of them" in capsys.readouterr().err
