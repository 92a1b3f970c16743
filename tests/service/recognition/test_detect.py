"""Detection on real photos: against the published detector, and against where faces were put."""

import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags
from PIL import Image as Pillow

from service.recognition.detect import DetectionOptions, _spans, detect
from service.recognition.recognizer import Recognizer
from service.recognition.types import Face, Image

Pixels = NDArray[np.uint8]
Box = NDArray[np.float64]

PUBLISHED = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4/face_detection_yunet_2023mar.onnx"

# x1, y1, x2, y2 of the group photo's faces, from left to right, to some ten pixels.
PEOPLE = [
    (60, 265, 168, 398),
    (268, 149, 371, 277),
    (465, 266, 570, 413),
    (748, 347, 843, 475),
    (908, 60, 1007, 202),
    (1127, 272, 1222, 397),
]

OPTIONS = DetectionOptions()


def overlap(a: Iterable[float], b: Iterable[float]) -> float:
    """Intersection over union."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a, b
    both = max(min(ax2, bx2) - max(ax1, bx1), 0) * max(min(ay2, by2) - max(ay1, by1), 0)
    return float(both / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - both))


def resized(pixels: Pixels, scale: float) -> Image:
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return Image(np.asarray(cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=how), np.uint8))


def cut_out(image: Image, face: Face, width: float) -> tuple[Pixels, Box]:
    """The face with half its size around it, resized until its box is so wide; and the box in it."""
    box = face.box.astype(np.float64)
    room = (box[2:] - box[:2]) / 2
    x1, y1 = np.maximum(box[:2] - room, 0).astype(int)
    x2, y2 = np.minimum(box[2:] + room, [image.width, image.height]).astype(int)
    scale = width / (box[2] - box[0])
    return resized(image.pixels[y1:y2, x1:x2], scale).pixels, (box - [x1, y1, x1, y1]) * scale


def paste(canvas: Pixels, piece: Pixels, box: Box, x: float, y: float) -> Box:
    """Put a piece where the centre of its face comes to x, y, as far as there is room; where its box then is."""
    left, top = (round(c) for c in np.array([x, y]) - (box[:2] + box[2:]) / 2)
    piece = piece[max(-top, 0) :, max(-left, 0) :]
    place = canvas[max(top, 0) : max(top, 0) + piece.shape[0], max(left, 0) : max(left, 0) + piece.shape[1]]
    place[:] = piece[: place.shape[0], : place.shape[1]]
    return box + np.array([left, top, left, top])


def nearest(faces: Sequence[Face], box: Box) -> float:
    """By how much the box that fits best is off at most, in pixels."""
    return min((float(np.abs(face.box - box).max()) for face in faces), default=np.inf)


def published_faces(detector: Path, pixels: Pixels) -> NDArray[np.float32]:
    """(k, 15): x, y, width, height, five landmarks, score."""
    network = cv2.FaceDetectorYN.create(str(detector), "", (pixels.shape[1], pixels.shape[0]), 0.6, 0.3)
    found = network.detect(np.ascontiguousarray(pixels[:, :, ::-1]))[1]
    return np.empty((0, 15), np.float32) if found is None else np.asarray(found)


def first_sight(recognizer: Recognizer, image: Image) -> list[Face]:
    """Before landmarks of tilted heads are straightened."""
    return detect(image, recognizer.detector, recognizer.options.detection)


def assert_agrees(face: Face, published: NDArray[np.float32]) -> None:
    x, y, width, height = published[:4]
    np.testing.assert_allclose(face.box, [x, y, x + width, y + height], atol=1.5)
    np.testing.assert_allclose(face.landmarks.ravel(), published[4:14], atol=1.5)
    assert face.score == pytest.approx(published[14], abs=0.02)


@pytest.fixture(scope="module")
def published(data_dir: Path) -> Path:
    path = data_dir / "downloads" / PUBLISHED
    if not path.is_file():
        pytest.skip(f"The published detector is not at {path}; `likeness pull open` downloads it.")
    return path


def test_six_people_are_found_largest_first(group_faces: list[Face]) -> None:
    assert len(group_faces) == 6
    from_left = sorted(group_faces, key=lambda face: float(face.box[0]))
    for face, person in zip(from_left, PEOPLE, strict=True):
        assert overlap(face.box, person) > 0.8
    areas = [face.area for face in group_faces]
    assert areas == sorted(areas, reverse=True)


def test_a_face_has_a_box_landmarks_and_a_score(group_faces: list[Face]) -> None:
    for face in group_faces:
        assert (face.box.dtype, face.box.shape) == (np.float32, (4,))
        assert (face.landmarks.dtype, face.landmarks.shape) == (np.float32, (5, 2))
        assert OPTIONS.min_score <= face.score <= 1
        assert (face.landmarks > face.box[:2]).all()
        assert (face.landmarks < face.box[2:]).all()


def test_landmarks_are_in_the_viewers_order(group_faces: list[Face], portrait_face: Face) -> None:
    for face in [*group_faces, portrait_face]:
        left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks.tolist()
        assert left_eye[0] < right_eye[0]
        assert left_mouth[0] < right_mouth[0]
        assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])


def test_faces_are_those_of_the_published_detector(
    recognizer: Recognizer, published: Path, portrait: Image, group: Image
) -> None:
    for image, people in ((portrait, 1), (resized(group.pixels, 0.5), 6)):
        expected, found = published_faces(published, image.pixels), first_sight(recognizer, image)
        assert len(expected) == len(found) == people
        for one in expected:
            assert_agrees(min(found, key=lambda face: float(np.abs(face.box[:2] - one[:2]).max())), one)


def test_faces_of_lfw_are_those_of_the_published_detector(recognizer: Recognizer, published: Path, lfw: Path) -> None:
    for path in sorted(lfw.glob("images/*/*_0001.jpg"))[::150]:
        image = recognizer.decode(path.read_bytes())
        expected = max(published_faces(published, image.pixels), key=lambda one: one[2] * one[3])
        assert_agrees(first_sight(recognizer, image)[0], expected)


@pytest.mark.parametrize("width", [20, 26, 40, 64, 90, 130, 180, 300, 450, 700])
def test_a_face_is_found_at_any_size(recognizer: Recognizer, portrait: Image, portrait_face: Face, width: int) -> None:
    scale = width / float(portrait_face.box[2] - portrait_face.box[0])
    faces = recognizer.detect(resized(portrait.pixels, scale))
    assert overlap(faces[0].box, portrait_face.box * scale) > 0.75
    # Enlarged further, fabric and labels get to look like small faces.
    assert len(faces) == 1 or width > 180


@pytest.mark.parametrize("scale", [0.25, 0.4, 1.5, 3.0])
def test_the_people_are_the_largest_faces_at_any_size(recognizer: Recognizer, group: Image, scale: float) -> None:
    people = recognizer.detect(resized(group.pixels, scale))[:6]
    from_left = sorted(people, key=lambda face: float(face.box[0]))
    for face, person in zip(from_left, PEOPLE, strict=True):
        assert overlap(face.box, np.array(person) * scale) > 0.7


@pytest.fixture(scope="module")
def landscape(coffee: Image) -> Pixels:
    """12 million pixels, no face."""
    return np.asarray(cv2.resize(coffee.pixels, (4000, 3000), interpolation=cv2.INTER_CUBIC), np.uint8)


def inner_edges(length: int) -> list[int]:
    """Where tiles begin and end within the photo."""
    spans = _spans(length, OPTIONS.tile, OPTIONS.tile_overlap)
    return sorted([start for start, _ in spans[1:]] + [sum(span) for span in spans[:-1]])


@pytest.mark.parametrize("seed", range(3))
def test_small_faces_in_a_large_photo_are_found_anywhere(
    recognizer: Recognizer, landscape: Pixels, portrait: Image, portrait_face: Face, seed: int
) -> None:
    canvas = landscape.copy()
    piece, box = cut_out(portrait, portrait_face, 20)
    rng = np.random.default_rng(seed)
    cells = rng.permutation(40 * 30)[:12]  # of 100 × 100 pixels
    places = [paste(canvas, piece, box, *(np.divmod(c, 30) * np.array(100) + rng.uniform(30, 70, 2))) for c in cells]
    faces = recognizer.detect(Image(canvas))
    assert len(faces) == len(places)
    for place in places:
        assert nearest(faces, place) < 4


def test_small_faces_on_the_borders_of_tiles_are_found_once(
    recognizer: Recognizer, landscape: Pixels, portrait: Image, portrait_face: Face
) -> None:
    canvas = landscape.copy()
    piece, box = cut_out(portrait, portrait_face, 20)
    columns, rows = inner_edges(4000), inner_edges(3000)
    assert len(columns) == 6
    assert len(rows) == 4
    places = [paste(canvas, piece, box, x, y) for x in columns for y in rows]  # where four tiles meet
    places += [paste(canvas, piece, box, x, y + 97) for x in columns for y in rows]
    places += [paste(canvas, piece, box, x + 97, y) for x in columns for y in rows]
    faces = recognizer.detect(Image(canvas))
    assert len(faces) == len(places) == 72
    for place in places:
        assert nearest(faces, place) < 4


@pytest.mark.parametrize("width", [60, 120, 200, 280, 360, 450, 600])
def test_a_face_across_the_border_of_two_tiles_is_one_whole_face(
    recognizer: Recognizer, coffee: Image, group: Image, group_faces: list[Face], width: int
) -> None:
    image = np.asarray(cv2.resize(coffee.pixels, (8000, 1280), interpolation=cv2.INTER_CUBIC), np.uint8)
    spans = _spans(8000, OPTIONS.tile, OPTIONS.tile_overlap)
    assert spans[3][0] - spans[2][0] == OPTIONS.tile - OPTIONS.tile_overlap
    place = paste(image, *cut_out(group, group_faces[1], width), spans[3][0] + OPTIONS.tile_overlap / 2, 640)
    [face] = recognizer.detect(Image(image))
    assert np.abs(face.box - place).max() < 0.15 * width


@pytest.mark.parametrize("side", [None, 600, 2000])
@pytest.mark.parametrize("inside", [0.0, 0.15])
def test_a_close_up_shows_one_face(
    recognizer: Recognizer, portrait: Image, portrait_face: Face, inside: float, side: int | None
) -> None:
    x1, y1, x2, y2 = portrait_face.box
    dx, dy = inside * (x2 - x1), inside * (y2 - y1)
    pixels = portrait.pixels[round(y1 + dy) : round(y2 - dy), round(x1 + dx) : round(x2 - dx)]
    close_up = Image(np.ascontiguousarray(pixels)) if side is None else resized(pixels, side / len(pixels))
    assert side is None or close_up.height == side
    [face] = recognizer.detect(close_up)
    scale, corner = close_up.height / len(pixels), np.array([round(x1 + dx), round(y1 + dy)])
    assert overlap(face.box, (portrait_face.box - np.tile(corner, 2)) * scale) > 0.6
    landmarks = (portrait_face.landmarks - corner) * scale
    np.testing.assert_allclose(face.landmarks, landmarks, atol=0.12 * (x2 - x1) * scale)


def test_lfw_photos_cropped_to_the_face_show_one_face(recognizer: Recognizer, lfw: Path) -> None:
    for path in sorted(lfw.glob("images/*/*_0001.jpg"))[::300]:
        image = recognizer.decode(path.read_bytes())
        x1, y1, x2, y2 = np.maximum(recognizer.detect(image)[0].box, 0).astype(int)
        for scale in (1, 4):
            assert len(recognizer.detect(resized(image.pixels[y1:y2, x1:x2], scale))) == 1, path.name


@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize(("kind", "tolerance"), [("PNG", 0), ("JPEG", 4)])
def test_a_photo_turned_by_exif_gives_the_same_face(
    recognizer: Recognizer, portrait: Image, portrait_face: Face, kind: str, tolerance: float, orientation: int
) -> None:
    stored = np.ascontiguousarray(np.rot90(portrait.pixels, {3: 2, 6: 1, 8: -1}[orientation]))
    exif = Pillow.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = io.BytesIO()
    options: dict[str, Any] = {"quality": 95} if kind == "JPEG" else {}
    Pillow.fromarray(stored).save(content, kind, exif=exif, **options)
    [face] = recognizer.detect(recognizer.decode(content.getvalue()))
    np.testing.assert_allclose(face.box, portrait_face.box, atol=tolerance)
    np.testing.assert_allclose(face.landmarks, portrait_face.landmarks, atol=tolerance)


def test_a_mirrored_photo_gives_mirrored_landmarks_in_the_viewers_order(
    recognizer: Recognizer, portrait: Image, portrait_face: Face
) -> None:
    [face] = recognizer.detect(Image(np.ascontiguousarray(portrait.pixels[:, ::-1])))
    expected = portrait_face.landmarks[[1, 0, 2, 4, 3]] * [-1, 1] + [portrait.width - 1, 0]
    np.testing.assert_allclose(face.landmarks, expected, atol=7)  # her face is 90 pixels wide
    assert face.landmarks[0, 0] < face.landmarks[1, 0] - 30


@pytest.mark.parametrize("shape", [(1, 1), (1, 2000), (2000, 1), (2, 2), (31, 31), (32, 33), (3, 700), (900, 5)])
@pytest.mark.parametrize("value", [0, 128, 255, None])
def test_tiny_images_show_no_face(recognizer: Recognizer, shape: tuple[int, int], value: int | None) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert recognizer.detect(Image(noise if value is None else np.full_like(noise, value))) == []


@pytest.mark.parametrize("name", ["coffee.png", "brick.png", "page.png", "chelsea.png", "rocket.jpg"])
def test_photos_without_people_show_no_face(recognizer: Recognizer, skimage_data: Path, name: str) -> None:
    assert recognizer.detect(recognizer.decode((skimage_data / name).read_bytes())) == []


def test_a_face_must_reach_the_score(recognizer: Recognizer, group: Image, group_faces: list[Face]) -> None:
    threshold = float(np.mean(sorted(face.score for face in group_faces)[2:4]))
    assert len(detect(group, recognizer.detector, DetectionOptions(min_score=threshold))) < 6
    assert detect(group, recognizer.detector, DetectionOptions(min_score=0.99)) == []


def test_detecting_changes_neither_the_photo_nor_the_next_answer(recognizer: Recognizer, group_photo: bytes) -> None:
    image = recognizer.decode(group_photo)
    before = image.pixels.copy()
    first, second = recognizer.detect(image), recognizer.detect(image)
    np.testing.assert_array_equal(image.pixels, before)
    np.testing.assert_array_equal([face.box for face in first], [face.box for face in second])


def test_several_threads_detect_side_by_side(
    recognizer: Recognizer, group: Image, group_faces: list[Face], portrait: Image, portrait_face: Face
) -> None:
    images = [Image(group.pixels), Image(portrait.pixels)] * 4
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(recognizer.detect, images))
    for faces, expected in zip(found, [group_faces, [portrait_face]] * 4, strict=True):
        np.testing.assert_array_equal([face.box for face in faces], [face.box for face in expected])


@pytest.mark.parametrize(("tile", "tile_overlap"), [(OPTIONS.tile, OPTIONS.tile_overlap), (100, 30), (64, 0)])
def test_tiles_cover_every_pixel_and_overlap_enough(tile: int, tile_overlap: int) -> None:
    for length in range(1, 6 * tile, 7 if tile > 100 else 1):
        spans = _spans(length, tile, tile_overlap)
        assert spans[0][0] == 0
        assert sum(spans[-1]) == length
        assert all(size == min(tile, length) for _, size in spans)
        assert all(b[0] > a[0] for a, b in pairwise(spans))
        assert all(sum(a) - b[0] >= tile_overlap for a, b in pairwise(spans))
