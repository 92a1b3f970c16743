"""Alignment against insightface's, on the landmarks of real faces and on made-up ones."""

import warnings

import cv2
import numpy as np
import pytest
from insightface.utils import face_align
from numpy.typing import NDArray

from service.recognition.align import align, similarity_transform
from service.recognition.recognizer import Recognizer
from service.recognition.types import Face, Image
from service.runtime.bundle import Bundle

Points = NDArray[np.float64]
TEMPLATE = np.asarray(face_align.arcface_dst, np.float64)


def by_insightface(points: Points) -> NDArray[np.float64]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # scikit-image deprecates the call that insightface makes
        return np.asarray(face_align.estimate_norm(points), np.float64)


def crop_by_insightface(image: Image, face: Face) -> NDArray[np.uint8]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return np.asarray(face_align.norm_crop(image.pixels, face.landmarks.astype(np.float64)), np.uint8)


def assert_same_transform(points: Points) -> None:
    expected = by_insightface(points)
    np.testing.assert_allclose(
        similarity_transform(points, TEMPLATE), expected, rtol=0, atol=1e-6 * np.abs(expected).max()
    )


def turned(points: Points, degrees: float) -> Points:
    angle = np.radians(degrees)
    return points @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def squared_distance(matrix: NDArray[np.float64], points: Points) -> float:
    return float(np.sum((points @ matrix[:, :2].T + matrix[:, 2] - TEMPLATE) ** 2))


def test_the_bundle_aligns_to_the_template_of_the_field(bundle: Bundle) -> None:
    alignment = bundle.card.contract.alignment
    np.testing.assert_allclose(alignment.template, TEMPLATE, atol=1e-4)
    assert alignment.size == 112


def test_the_transform_of_real_faces_is_insightfaces(group_faces: list[Face], portrait_face: Face) -> None:
    for face in [*group_faces, portrait_face]:
        assert_same_transform(face.landmarks.astype(np.float64))


@pytest.mark.parametrize("seed", range(50))
def test_the_transform_of_random_points_is_insightfaces(seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert_same_transform(rng.uniform(-100, 4000) + rng.normal(size=(5, 2)) * 10 ** rng.uniform(0, 3))


@pytest.mark.parametrize("degrees", [0, 30, 90, 135, 180, 270])
def test_a_turned_face_is_turned_back(portrait_face: Face, degrees: float) -> None:
    landmarks = portrait_face.landmarks.astype(np.float64)
    there = turned(landmarks, degrees)
    assert_same_transform(there)
    upright = similarity_transform(landmarks, TEMPLATE)
    matrix = similarity_transform(there, TEMPLATE)
    for before, after in zip(landmarks, there, strict=True):
        np.testing.assert_allclose(matrix @ [*after, 1], upright @ [*before, 1], atol=1e-8)


def test_a_mirrored_face_is_not_mirrored_back(portrait_face: Face) -> None:
    mirrored = portrait_face.landmarks.astype(np.float64) * [-1, 1]
    assert_same_transform(mirrored)
    assert np.linalg.det(similarity_transform(mirrored, TEMPLATE)[:, :2]) > 0


def test_points_on_the_template_stay() -> None:
    np.testing.assert_allclose(similarity_transform(TEMPLATE, TEMPLATE), [[1, 0, 0], [0, 1, 0]], atol=1e-12)


def test_points_on_a_line_still_have_an_orientation() -> None:
    matrix = similarity_transform(np.outer(np.arange(5.0), [3.0, 1.0]) + 50, TEMPLATE)
    assert np.isfinite(matrix).all()
    assert np.linalg.det(matrix[:, :2]) > 0


@pytest.mark.parametrize("seed", range(10))
def test_no_other_similarity_comes_closer(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = TEMPLATE * 3 + rng.normal(size=(5, 2)) * 20
    best = similarity_transform(points, TEMPLATE)
    least = squared_distance(best, points)
    for _ in range(50):
        a, b, x, y = rng.normal(size=4) * [1e-3, 1e-3, 0.1, 0.1]
        assert squared_distance(best + np.array([[a, -b, x], [b, a, y]]), points) >= least


@pytest.mark.parametrize("place", [(0.0, 0.0), (1234.5, 77.25)])
def test_landmarks_all_in_one_place_are_a_defect(place: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="all in one place"):
        similarity_transform(np.tile(place, (5, 1)), TEMPLATE)


def test_crops_of_the_photos_resolution_are_insightfaces(
    recognizer: Recognizer, group: Image, group_faces: list[Face], portrait: Image, portrait_face: Face
) -> None:
    for image, face in [(portrait, portrait_face), *((group, face) for face in group_faces)]:
        difference = np.abs(recognizer.crop(image, face).astype(int) - crop_by_insightface(image, face))
        assert difference.max() <= 1
        assert difference.mean() < 0.01


def test_crops_of_small_faces_are_insightfaces(recognizer: Recognizer, group: Image) -> None:
    small = Image(np.asarray(cv2.resize(group.pixels, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA), np.uint8))
    faces = recognizer.detect(small)
    assert len(faces) == 6
    for face in faces:
        matrix = similarity_transform(face.landmarks, TEMPLATE)
        assert np.hypot(matrix[0, 0], matrix[1, 0]) > 1.5  # enlarged
        difference = np.abs(recognizer.crop(small, face).astype(int) - crop_by_insightface(small, face))
        assert difference.max() <= 1


def test_outside_the_photo_the_crop_is_black(portrait: Image, portrait_face: Face) -> None:
    left_edge = int(portrait_face.landmarks[:, 0].mean())
    half = Image(np.ascontiguousarray(portrait.pixels[:, left_edge:]))
    whole_crop = align(portrait, portrait_face.landmarks, TEMPLATE, 112)
    half_crop = align(half, portrait_face.landmarks - np.array([left_edge, 0], np.float32), TEMPLATE, 112)
    assert (half_crop[:, :40] == 0).all()
    assert whole_crop[:, :40].mean() > 50
    np.testing.assert_allclose(half_crop[:, 70:].astype(int), whole_crop[:, 70:], atol=1)
