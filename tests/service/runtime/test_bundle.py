"""Bundles on disk: found by name or path, and opened only when every file is what the card says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.errors import BundleError
from service.runtime.bundle import MAX_CARD_BYTES, locate, open_bundle


def test_an_opened_bundle_holds_the_bytes_that_were_checked(folder: Path, fields: dict[str, Any]) -> None:
    found = open_bundle(folder)
    assert found.card.name == "made-up"
    assert found.detector == (folder / "detector.onnx").read_bytes()
    assert found.embedder == (folder / "embedder.onnx").read_bytes()
    (folder / "embedder.onnx").write_bytes(b"changed a moment later")
    assert len(found.embedder) == fields["embedder"]["size"]


def test_the_real_bundle_opens(data_dir: Path) -> None:
    found = open_bundle(locate("open", data_dir))
    assert (found.card.name, found.card.contract.dimension) == ("open", 128)
    assert (len(found.detector), len(found.embedder)) == (found.card.detector.size, found.card.embedder.size)


def change(name: str, how: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(how((folder / name).read_bytes()))


def folder_in_place_of(name: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return edit


def claim(role: str, **claims: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        card[role].update(claims)
        (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")

    return edit


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (
            change("embedder.onnx", lambda c: b"A" + c[1:]),
            r"embedder\.onnx is not what its card says: sha256 [0-9a-f]{16}…",
        ),
        (change("detector.onnx", lambda c: c[:-1] + b"A"), r"detector\.onnx is not what its card says"),
        (change("embedder.onnx", lambda c: c[:-1]), r"embedder\.onnx has 20 bytes, its card says 21"),
        (change("detector.onnx", lambda c: c + b"\n"), r"detector\.onnx has 33 bytes, its card says 32"),
        (change("detector.onnx", lambda _: b""), r"detector\.onnx has 0 bytes"),
        (lambda folder: (folder / "embedder.onnx").unlink(), r"embedder\.onnx cannot be read: No such file"),
        (lambda folder: (folder / "card.json").unlink(), r"card\.json cannot be read: No such file"),
        (folder_in_place_of("card.json"), r"card\.json cannot be read: Is a directory"),
        (folder_in_place_of("detector.onnx"), r"detector\.onnx"),
        (
            change("card.json", lambda c: c + b" " * MAX_CARD_BYTES),
            r"card\.json has \d+ bytes; a card has less than 1 MB",
        ),
        (claim("detector", sha256="0" * 64), r"detector\.onnx is not what its card says.*expected 0000000000000000…"),
        (claim("embedder", size=22), r"embedder\.onnx has 21 bytes, its card says 22"),
        (claim("detector", file="embedder.onnx"), r"embedder\.onnx has 21 bytes, its card says 32"),
        (claim("embedder", file="none.onnx"), r"none\.onnx cannot be read"),
    ],
)
def test_a_bundle_that_is_not_what_its_card_says_is_refused_by_name(
    folder: Path, spoil: Callable[[Path], object], complaint: str
) -> None:
    spoil(folder)
    with pytest.raises(BundleError, match=complaint) as caught:
        open_bundle(folder)
    assert str(folder) in caught.value.message


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"none/card\.json cannot be read: No such file"):
        open_bundle(tmp_path / "none")


def test_a_bundle_is_found_by_name_and_by_path(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    assert locate("made-up", data) == folder
    assert locate(str(folder), tmp_path / "elsewhere") == folder
    monkeypatch.chdir(folder.parent)
    assert locate("made-up", tmp_path / "elsewhere").samefile(folder)


def test_the_bundle_of_that_name_comes_before_a_folder_that_happens_to_lie_here(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "made-up").mkdir()
    (tmp_path / "made-up" / "card.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert locate("made-up", tmp_path / "data").samefile(folder)


def test_a_link_to_a_bundle_is_followed(folder: Path, tmp_path: Path) -> None:
    link = folder.parent / "in-use"
    link.symlink_to(folder.name)
    assert open_bundle(locate("in-use", tmp_path / "data")).card.name == "made-up"


@pytest.mark.parametrize("name", ["opne", "made-up/none", "bundles"])
def test_a_bundle_that_is_not_there_says_how_to_obtain_it(folder: Path, tmp_path: Path, name: str) -> None:
    assert folder.exists()
    with pytest.raises(BundleError, match=f"There is no bundle '{name}' in .*`likeness pull {name}`") as caught:
        locate(name, tmp_path / "data")
    assert caught.value.details == {"bundle": name}
