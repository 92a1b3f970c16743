"""Measures of a real face that was turned, blurred and lit in known ways."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from service.recognition.quality import measure
from service.recognition.recognizer import Recognizer
from service.recognition.types import Face, Image


def crop_of(value: int) -> NDArray[np.uint8]:
    return np.full((112, 112, 3), value, np.uint8)


def turned_by(degrees: float, portrait: Image, face: Face) -> tuple[Image, Face]:
    """The photo turned clockwise about the middle of the face, and the face as it then lies."""
    x, y = ((face.box[:2] + face.box[2:]) / 2).tolist()
    matrix = cv2.getRotationMatrix2D((x, y), -degrees, 1.0)
    pixels = np.asarray(cv2.warpAffine(portrait.pixels, matrix, (portrait.width, portrait.height)), np.uint8)
    landmarks = face.landmarks @ matrix[:, :2].T + matrix[:, 2]
    return Image(pixels), Face(face.box, landmarks.astype(np.float32), face.score)


@pytest.mark.parametrize("degrees", [-60, -20, -5, 5, 20, 60])
def test_roll_is_the_angle_by_which_the_landmarks_were_turned(
    recognizer: Recognizer, portrait: Image, portrait_face: Face, degrees: float
) -> None:
    upright = recognizer.quality(portrait, portrait_face)
    turned = recognizer.quality(*turned_by(degrees, portrait, portrait_face))
    # Clockwise, the eye on the viewer's right goes down. The alignment takes it out: the crop stays as it was.
    assert turned.roll_degrees == pytest.approx(upright.roll_degrees + degrees, abs=1e-3)
    assert turned.inter_eye_distance == pytest.approx(upright.inter_eye_distance, rel=1e-4)
    assert turned.brightness == pytest.approx(upright.brightness, abs=0.005)


@pytest.mark.parametrize("degrees", [-20, -10, 10, 20])
def test_roll_is_the_angle_by_which_the_photo_was_turned(
    recognizer: Recognizer, portrait: Image, portrait_face: Face, degrees: float
) -> None:
    turned, _ = turned_by(degrees, portrait, portrait_face)
    # Below 6 degrees landmarks stay as first seen, which hardly show a tilt.
    # Turning leaves black corners, which may look like something.
    face = max(recognizer.detect(turned), key=lambda found: found.score)
    upright = recognizer.quality(portrait, portrait_face).roll_degrees
    assert recognizer.quality(turned, face).roll_degrees == pytest.approx(upright + degrees, abs=5)


def test_roll_of_known_eyes() -> None:
    for right_eye, expected in (([60, 50], 0.0), ([50, 60], 90.0), ([60, 60], 45.0), ([60, 40], -45.0)):
        landmarks = np.array([[50, 50], right_eye, [0, 0], [0, 0], [0, 0]], np.float32)
        face = Face(np.array([0, 0, 100, 100], np.float32), landmarks, 0.9)
        assert measure(face, crop_of(0)).roll_degrees == pytest.approx(expected)


def test_the_distance_of_the_eyes_is_in_pixels_of_the_photo(
    recognizer: Recognizer, portrait: Image, portrait_face: Face
) -> None:
    half = Image(np.asarray(cv2.resize(portrait.pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8))
    [face] = recognizer.detect(half)
    whole = recognizer.quality(portrait, portrait_face).inter_eye_distance
    assert recognizer.quality(half, face).inter_eye_distance == pytest.approx(whole / 2, rel=0.15)
    assert 40 < whole < 55


def test_brightness_goes_from_black_to_white(portrait_face: Face) -> None:
    assert measure(portrait_face, crop_of(0)).brightness == 0.0
    assert measure(portrait_face, crop_of(255)).brightness == 1.0
    assert measure(portrait_face, crop_of(51)).brightness == pytest.approx(0.2)


def test_brightness_weighs_colours_as_eyes_do(portrait_face: Face) -> None:
    values = []
    for channel in range(3):
        crop = crop_of(0)
        crop[:, :, channel] = 255
        values.append(measure(portrait_face, crop).brightness)
    assert values == pytest.approx([0.299, 0.587, 0.114], abs=0.005)


def test_brightness_rises_with_the_light(recognizer: Recognizer, portrait: Image, portrait_face: Face) -> None:
    values = []
    for light in (0.4, 0.7, 1.0, 1.3):
        lit = Image(np.clip(portrait.pixels * light, 0, 255).astype(np.uint8))
        values.append(recognizer.quality(lit, portrait_face).brightness)
    assert values == sorted(values)
    assert values[0] == pytest.approx(0.4 * values[2], rel=0.02)
    assert values[3] > 1.2 * values[2]


def test_sharpness_falls_with_blur(recognizer: Recognizer, portrait: Image, portrait_face: Face) -> None:
    values = [recognizer.quality(portrait, portrait_face).sharpness]
    for sigma in (0.7, 1.0, 1.5, 2.5, 4.0):
        blurred = Image(np.asarray(cv2.GaussianBlur(portrait.pixels, (0, 0), sigma), np.uint8))
        values.append(recognizer.quality(blurred, portrait_face).sharpness)
    assert all(sharper > 1.15 * softer for sharper, softer in pairwise(values))


def test_sharpness_falls_when_enlarged_from_few_pixels(
    recognizer: Recognizer, portrait: Image, portrait_face: Face
) -> None:
    few = cv2.resize(portrait.pixels, None, fx=0.2, fy=0.2, interpolation=cv2.INTER_AREA)
    enlarged = Image(np.asarray(cv2.resize(few, (512, 512), interpolation=cv2.INTER_CUBIC), np.uint8))
    whole = recognizer.quality(portrait, portrait_face).sharpness
    assert recognizer.quality(enlarged, portrait_face).sharpness < 0.5 * whole


def test_sharpness_is_the_spread_of_the_second_differences(portrait_face: Face) -> None:
    luma = np.random.default_rng(0).integers(0, 256, (112, 112), dtype=np.uint8)
    padded = np.pad(luma.astype(np.float64), 1, mode="reflect")
    laplacian = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * padded[1:-1, 1:-1]
    crop = np.repeat(luma[:, :, None], 3, axis=2)
    assert measure(portrait_face, crop).sharpness == pytest.approx(laplacian.std(), rel=1e-3)
    assert measure(portrait_face, crop_of(77)).sharpness == 0.0


def test_measures_are_plain_numbers(recognizer: Recognizer, portrait: Image, portrait_face: Face) -> None:
    quality = recognizer.quality(portrait, portrait_face)
    measures = (quality.inter_eye_distance, quality.roll_degrees, quality.brightness, quality.sharpness)
    assert all(type(value) is float and np.isfinite(value) for value in measures)
