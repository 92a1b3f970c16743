"""Folders of photos through both clients. The command made of it is tested beside the other commands."""

from pathlib import Path

import pytest

from likeness import LikenessError, PhotoOutcome, Unauthorized
from tests.conftest import Running
from tests.likeness.conftest import Caller, opened

pytestmark = pytest.mark.anyio


@pytest.fixture
def folder(portrait: bytes, portrait_again: bytes, group_photo: bytes, tmp_path: Path) -> Path:
    """Ann with two photos, Bo with one of six people and a text."""
    for path, content in {
        "Ann A./1.jpg": portrait,
        "Ann A./2.jpg": portrait_again,
        "bo/six.jpg": group_photo,
        "bo/text.png": b"no photo",
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    return tmp_path


async def test_each_photo_has_its_outcome(caller: Caller, gallery: str, folder: Path) -> None:
    told: list[PhotoOutcome] = []
    outcomes = await caller.enrol_folder(gallery, folder, on_outcome=told.append)
    assert list(outcomes) == told
    assert {(outcome.path.name, outcome.what, outcome.code) for outcome in outcomes} == {
        ("1.jpg", "enrolled", ""),
        ("2.jpg", "enrolled", ""),
        ("six.jpg", "rejected", "multiple_faces"),
        ("text.png", "rejected", "unsupported_media_type"),
    }
    six = next(outcome for outcome in outcomes if outcome.path.name == "six.jpg")
    assert six.message.startswith("six.jpg shows 6 faces")
    assert {person.name: person.faces async for person in caller.persons(gallery)} == {"Ann A.": 2, "bo": 0}
    # Again: what is there is not sent, what was rejected is tried again.
    again = await caller.enrol_folder(gallery, str(folder), faces="largest", workers=1)
    assert {(outcome.path.name, outcome.what) for outcome in again} == {
        ("1.jpg", "already_there"),
        ("2.jpg", "already_there"),
        ("six.jpg", "enrolled"),
        ("text.png", "rejected"),
    }


async def test_what_is_no_photos_fault_ends_it(
    kind: str, running: Running, caller: Caller, gallery: str, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with opened(kind, running.url, "another-key") as stranger:
        with pytest.raises(Unauthorized):
            await stranger.enrol_folder(gallery, folder)

    def full(outcome: PhotoOutcome) -> None:
        raise BlockingIOError(outcome.path)

    with pytest.raises(BlockingIOError):
        await caller.enrol_folder(gallery, folder, on_outcome=full)
    with pytest.raises(LikenessError):
        await caller.enrol_folder("no gallery's id", folder)
    with pytest.raises(ValueError, match="has no photos"):
        await caller.enrol_folder(gallery, tmp_path_factory.mktemp("empty"))
    with pytest.raises(ValueError, match="workers must be 1 to 64"):
        await caller.enrol_folder(gallery, folder, workers=0)
