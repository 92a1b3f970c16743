"""Heads that lean: what straightening does to landmarks and to what is compared."""

import cv2
import numpy as np
import pytest

from service.recognition.detect import detect
from service.recognition.recognizer import Recognizer
from service.recognition.tilt import TiltOptions, straighten, tilt
from service.recognition.types import Face, Image


def leaning(portrait: Image, face: Face, degrees: float) -> Image:
    """The photo turned clockwise about the face."""
    x, y = ((face.box[:2] + face.box[2:]) / 2).tolist()
    turn = cv2.getRotationMatrix2D((x, y), -degrees, 1.0)
    size = (portrait.width, portrait.height)
    return Image(np.asarray(cv2.warpAffine(portrait.pixels, turn, size, borderMode=cv2.BORDER_REPLICATE), np.uint8))


def first_sight(recognizer: Recognizer, image: Image) -> Face:
    """The surest face, its landmarks as the network drew them."""
    return max(detect(image, recognizer.detector, recognizer.options.detection), key=lambda face: face.score)


def cosine(recognizer: Recognizer, a: tuple[Image, Face], b: tuple[Image, Face]) -> float:
    first, second = recognizer.embed([a, b])
    return float(first.embedding @ second.embedding)


@pytest.mark.parametrize("degrees", [-30, -20, 20, 30])
def test_a_leaning_head_is_compared_as_if_it_were_upright(
    recognizer: Recognizer, portrait: Image, portrait_face: Face, degrees: float
) -> None:
    turned = leaning(portrait, portrait_face, degrees)
    seen = first_sight(recognizer, turned)
    [straight] = straighten(turned, recognizer.detector, [seen], TiltOptions())
    before = cosine(recognizer, (portrait, portrait_face), (turned, seen))
    after = cosine(recognizer, (portrait, portrait_face), (turned, straight))
    assert after > 0.9
    assert after > before + 0.05
    assert tilt(straight.landmarks) == pytest.approx(tilt(portrait_face.landmarks) + degrees, abs=6)
    np.testing.assert_array_equal(straight.box, seen.box)
    assert straight.score == seen.score


def test_the_tilt_is_that_of_eyes_and_mouth_together() -> None:
    upright = np.array([[38, 52], [74, 52], [56, 72], [42, 92], [71, 92]], np.float32)
    for degrees in (-170.0, -45.0, 0.0, 10.0, 90.0):
        a = np.radians(degrees)
        turned = upright @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
        assert tilt(turned.astype(np.float32)) == pytest.approx(degrees, abs=1e-3)


def test_an_upright_head_keeps_its_landmarks(recognizer: Recognizer, portrait: Image) -> None:
    seen = first_sight(recognizer, portrait)
    [kept] = straighten(portrait, recognizer.detector, [seen], TiltOptions(smallest=90.0))
    assert kept is seen
    assert straighten(portrait, recognizer.detector, [], TiltOptions()) == []


def test_faces_keep_their_order_whoever_leans(recognizer: Recognizer, group: Image, group_faces: list[Face]) -> None:
    seen = detect(group, recognizer.detector, recognizer.options.detection)
    straight = straighten(group, recognizer.detector, seen, TiltOptions())
    assert len(straight) == len(seen) == 6
    for before, after in zip(seen, straight, strict=True):
        np.testing.assert_array_equal(before.box, after.box)
        # Every landmark is still that of the same face.
        assert np.abs(before.landmarks - after.landmarks).max() < 0.3 * before.size
    assert [face.box.tolist() for face in straight] == [face.box.tolist() for face in group_faces]
