"""Photos to embeddings: the central face, and what becomes of photos that give no embedding."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from service.errors import FaceNotFound, FaceTooSmall, InvalidRequest
from service.evaluation.photos import (
    EmbeddedFace,
    EmbeddedPhoto,
    EmbedPhoto,
    central_face,
    embed_photos,
    persons_of,
)

BLANK, GARBAGE = "P_03/P_03_0002.jpg", "P_07/P_07_0001.jpg"


@pytest.fixture
def images(lfw_tree: tuple[Path, Path]) -> Path:
    return lfw_tree[0]


def names_in(images: Path) -> list[str]:
    return sorted(path.relative_to(images).as_posix() for path in images.rglob("*.jpg"))


def face_at(x1: float, y1: float, x2: float, y2: float) -> EmbeddedFace:
    return EmbeddedFace((x1, y1, x2, y2), np.array([1], np.float32))


def test_the_central_face_is_the_checkers_choice() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        corners = rng.uniform(0, 200, (4, 2))
        boxes = np.hstack([corners, corners + rng.uniform(5, 100, (4, 2))])
        x, y = (boxes[:, :2] + (boxes[:, 2:] - boxes[:, :2]) / 2).T
        size = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
        expected = boxes[np.argmin(np.hypot(x - 125, y - 125) / size)]
        faces = [face_at(*box) for box in boxes.tolist()]
        assert central_face(faces, 250, 250).box == tuple(expected.tolist())


def test_the_centre_is_that_of_the_photo_and_large_faces_are_nearer() -> None:
    left, right = face_at(0, 0, 20, 20), face_at(90, 40, 110, 60)
    assert central_face([left, right], 200, 100) is right
    assert central_face([left, right], 20, 20) is left
    small, large = face_at(40, 45, 50, 55), face_at(45, 40, 67, 62)
    assert central_face([small, large], 100, 100) is large
    assert central_face([face_at(50, 50, 50, 50), small], 100, 100) is small
    with pytest.raises(FaceNotFound):
        central_face([], 100, 100)


def test_persons_are_folders() -> None:
    names = ["Bo-A/x_0001.jpg", "Bo/Bo_0002.jpg", "Al/Al_0001.jpg", "Bo/Bo_0001.jpg"]
    persons, numbers = persons_of(names)
    assert persons == ("Al", "Bo", "Bo-A")
    assert numbers.tolist() == [2, 1, 0, 1]


def test_photos_are_embedded_once_and_few_are_held_at_a_time(
    images: Path, embed_photo: EmbedPhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, held, most, seen = threading.Lock(), 0, 0, []
    read_bytes = Path.read_bytes

    def counted_read(path: Path) -> bytes:
        nonlocal held, most
        if path.suffix == ".jpg":
            with lock:
                held, most = held + 1, max(most, held + 1)
                seen.append(path)
        return read_bytes(path)

    def slow(data: bytes, /) -> EmbeddedPhoto:
        nonlocal held
        time.sleep(0.005)
        try:
            return embed_photo(data)
        finally:
            with lock:
                held -= 1

    monkeypatch.setattr(Path, "read_bytes", counted_read)
    photos = embed_photos(slow, images, names_in(images), workers=3)
    assert sorted(seen) == [images / name for name in photos.names]
    assert 1 < most <= 3


def test_a_face_too_small_and_an_empty_list_are_undetected(images: Path, embed_photo: EmbedPhoto) -> None:
    empty, small = ((images / name).read_bytes() for name in ("P_00/P_00_0001.jpg", "P_00/P_00_0002.jpg"))

    def picky(data: bytes, /) -> EmbeddedPhoto:
        if data == small:
            raise FaceTooSmall("too small")
        return EmbeddedPhoto(64, 64, []) if data == empty else embed_photo(data)

    photos = embed_photos(picky, images, names_in(images), workers=2)
    assert set(photos.undetected) == {BLANK, GARBAGE, "P_00/P_00_0001.jpg", "P_00/P_00_0002.jpg"}


def test_an_error_of_the_recognizer_ends_the_evaluation_early(images: Path) -> None:
    calls = []

    def broken(data: bytes, /) -> EmbeddedPhoto:
        calls.append(len(data))
        time.sleep(0.01)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        embed_photos(broken, images, names_in(images), workers=2)
    assert len(calls) < 10


def test_ctrl_c_between_two_photos_does_not_wait_for_all_others(
    images: Path, embed_photo: EmbedPhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def slow(data: bytes, /) -> EmbeddedPhoto:
        calls.append(len(data))
        time.sleep(0.01)
        return embed_photo(data)

    def interrupted(items: Iterator[object], *_: object, **__: object) -> Iterator[object]:
        yield next(items)
        raise KeyboardInterrupt

    monkeypatch.setattr("service.evaluation.photos.track", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embed_photos(slow, images, names_in(images), workers=2)
    assert len(calls) < 10


def test_what_makes_no_sense_is_refused(images: Path, embed_photo: EmbedPhoto) -> None:
    def blind(_data: bytes, /) -> EmbeddedPhoto:
        return EmbeddedPhoto(64, 64, [])

    def unnormalised(_data: bytes, /) -> EmbeddedPhoto:
        return EmbeddedPhoto(64, 64, [EmbeddedFace((20, 20, 40, 40), np.full(4, 0.6, np.float32))])

    with pytest.raises(FaceNotFound, match="in any of the"):
        embed_photos(blind, images, names_in(images), workers=2)
    with pytest.raises(ValueError, match=r"has length 1\.2"):
        embed_photos(unnormalised, images, names_in(images), workers=2)
    with pytest.raises(InvalidRequest, match="0 workers"):
        embed_photos(embed_photo, images, names_in(images), workers=0)
