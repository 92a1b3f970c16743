"""Large JPEGs where faces must be large: decoded in a coarser level, with the answers of the whole photo."""

import io
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow

from service.engine import Engine
from service.recognition.decode import decode
from service.recognition.recognizer import Recognizer
from service.recognition.types import Image
from service.runtime.decoders import Decoders
from tests.service.recognition.test_decode import STORED, oriented
from tests.service.recognition.test_detect import PEOPLE, overlap

Pixels = NDArray[np.uint8]
MOST = 20_000_000


@pytest.fixture(scope="module")
def large(group_photo: bytes) -> Pixels:
    """The group photo twice as wide and high: 2560 × 1776, its faces some 200 pixels wide."""
    pixels = decode(group_photo, MOST).pixels[:880]
    return np.asarray(cv2.resize(pixels, (2560, 1760), interpolation=cv2.INTER_CUBIC), np.uint8)


def jpeg(pixels: Pixels | Pillow.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    image = pixels if isinstance(pixels, Pillow.Image) else Pillow.fromarray(np.ascontiguousarray(pixels))
    image.save(out, "JPEG", quality=92, **options)
    return out.getvalue()


def usable_from(engine: Engine, size: float, decoders: Decoders | None = None) -> Recognizer:
    """The engine's recognizer where faces must be ``size`` pixels wide."""
    served, alignment = engine.recognizer, engine.card.contract.alignment
    options = replace(served.options, min_face_size=size)
    way = (decoders,) if decoders else ()
    return Recognizer(served.detector, served.embedder, alignment.template, alignment.size, options, *way)


@pytest.mark.parametrize(
    ("orientation", "mode"), [*((orientation, "RGB") for orientation in STORED), (6, "L"), (6, "CMYK")]
)
def test_a_coarser_level_is_that_of_the_whole_photo(group_photo: bytes, orientation: int, mode: str) -> None:
    upright = decode(group_photo, MOST).pixels[:880]
    stored = Pillow.fromarray(np.ascontiguousarray(STORED[orientation](upright))).convert(mode)
    content = jpeg(stored, exif=oriented(orientation), progressive=mode == "RGB")
    whole, photo = decode(content, MOST), decode(content, MOST, 1)
    assert (photo.finest, photo.width, photo.height) == (1, whole.width, whole.height)
    difference = np.abs(photo.level(1).astype(int) - whole.level(1))
    assert difference.mean() < 1.5
    # A photo that lies a pixel off would be further from it.
    moved = np.abs(np.roll(photo.level(1).astype(int), 1, axis=1) - whole.level(1))
    assert difference.mean() < 0.6 * moved.mean()
    np.testing.assert_array_equal(photo.pixels, whole.pixels)
    assert photo.finest == 0


@pytest.mark.parametrize(
    ("size", "asked", "level"),
    [((2560, 1760), 0, 0), ((2560, 1760), 3, 2), ((2560, 1762), 3, 1), ((2562, 1761), 3, 0), ((1272, 880), 3, 0)],
)
def test_a_level_is_taken_that_fits_and_that_is_not_too_small(
    large: Pixels, size: tuple[int, int], asked: int, level: int
) -> None:
    pixels = np.asarray(cv2.resize(large, size), np.uint8)
    photo = decode(jpeg(pixels), MOST, asked)
    assert (photo.finest, photo.width, photo.height) == (level, *size)
    png = io.BytesIO()
    Pillow.fromarray(pixels).save(png, "PNG", compress_level=1)
    assert decode(png.getvalue(), MOST, asked).finest == 0


def test_the_process_decodes_the_same_and_again_when_asked(large: Pixels) -> None:
    decoders, content = Decoders(1, MOST), jpeg(large)
    here, there = decode(content, MOST, 1), decoders(content, MOST, 1)
    assert (there.finest, there.width) == (1, 2560)
    np.testing.assert_array_equal(there.level(1), here.level(1))
    np.testing.assert_array_equal(there.pixels, here.pixels)
    decoders.close()


def test_faces_large_enough_are_found_and_embedded_without_the_whole_photo(engine: Engine, large: Pixels) -> None:
    content = jpeg(large)
    whole, reduced = engine.recognizer, usable_from(engine, 56)
    photos = whole.decode(content), reduced.decode(content)
    assert [photo.finest for photo in photos] == [0, 1]
    faces = [by.detect(photo)[:6] for by, photo in zip((whole, reduced), photos, strict=True)]
    embedded = [
        by.embed([(photo, face) for face in found])
        for by, photo, found in zip((whole, reduced), photos, faces, strict=True)
    ]
    assert photos[1].finest == 1
    for place in PEOPLE:
        a, b = (max(found, key=lambda e: overlap(e.face.box / 2, place)) for found in embedded)
        assert overlap(a.face.box, b.face.box) > 0.8
        assert float(a.embedding @ b.embedding) > 0.9


def test_a_face_that_is_small_in_it_is_taken_from_the_whole_photo(engine: Engine, large: Pixels) -> None:
    smaller = np.asarray(cv2.resize(large, (1280, 880), interpolation=cv2.INTER_AREA), np.uint8)
    canvas = np.full((1760, 2560, 3), 90, np.uint8)
    canvas[:880, :1280] = smaller
    reduced = usable_from(engine, 56)
    photo = reduced.decode(jpeg(canvas))
    assert photo.finest == 1
    faces = reduced.detect(photo)
    assert photo.finest == 0
    found = engine.recognizer.detect(Image(canvas))[:6]
    for face in found:
        assert max(overlap(face.box, other.box) for other in faces) > 0.8


def test_a_face_that_is_too_small_is_found_all_the_same_when_there_is_no_other(engine: Engine, portrait: Image) -> None:
    canvas = np.full((1600, 2400, 3), 90, np.uint8)
    small = cv2.resize(portrait.pixels, None, fx=0.22, fy=0.22, interpolation=cv2.INTER_AREA)
    canvas[700 : 700 + small.shape[0], 800 : 800 + small.shape[1]] = small
    reduced = usable_from(engine, 112)
    photo = reduced.decode(jpeg(canvas))
    assert photo.finest == 1
    [face] = reduced.detect(photo)
    assert 16 < face.size < 26


def test_without_such_a_limit_photos_are_decoded_whole(engine: Engine, large: Pixels) -> None:
    assert engine.recognizer.decode(jpeg(large)).finest == 0
    assert usable_from(engine, 55).decode(jpeg(large)).finest == 0
    assert usable_from(engine, 112).decode(jpeg(large)).finest == 2
