"""The pyramid and the warp against means and interpolation in float64, written out."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from service.recognition.align import align, similarity_transform
from service.recognition.proposals import view_matrix
from service.recognition.resample import warp
from service.recognition.types import Face, Image

Matrix = NDArray[np.float64]

# Around a real face: the template lies in the middle of a crop of 112 × 112.
TEMPLATE = np.array([[38.3, 51.7], [73.5, 51.5], [56.0, 71.7], [41.5, 92.4], [70.7, 92.2]])
CROP = 112


def noise(height: int, width: int, seed: int = 0) -> Image:
    return Image(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def block_means(pixels: NDArray[np.uint8], side: int) -> NDArray[np.float64]:
    height, width = pixels.shape[0] // side, pixels.shape[1] // side
    blocks = pixels[: height * side, : width * side].astype(np.float64)
    return blocks.reshape(height, side, width, side, 3).mean(axis=(1, 3))


def ideal_crop(pixels: NDArray[np.uint8], matrix: Matrix, size: int, fineness: int = 12) -> NDArray[np.float64]:
    """Each target pixel as the mean of ``fineness``² samples spread over its area."""
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    at = (np.arange(size * fineness) + 0.5) / fineness - 0.5
    u, v = np.meshgrid(at, at)
    x, y = (row[0] * u + row[1] * v + row[2] for row in inverse[:2])
    samples = [map_coordinates(pixels[:, :, c].astype(np.float64), [y, x], order=1, cval=0) for c in range(3)]
    return np.dstack([s.reshape(size, fineness, size, fineness).mean(axis=(1, 3)) for s in samples])


def without_pyramid(pixels: NDArray[np.uint8], matrix: Matrix, size: int) -> NDArray[np.uint8]:
    """What insightface does."""
    return np.asarray(cv2.warpAffine(pixels, matrix, (size, size), flags=cv2.INTER_LINEAR), np.uint8)


def enlarge(pixels: NDArray[np.uint8], times: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(pixels, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC), np.uint8)


def face_matrix(face: Face, times: int) -> Matrix:
    """From the photo enlarged so many times to the aligned crop."""
    return similarity_transform((face.landmarks.astype(np.float64) + 0.5) * times - 0.5, TEMPLATE)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (97, 131), (33, 250), (16, 17)])
@pytest.mark.parametrize("level", [0, 1, 2, 3, 4])
def test_a_level_holds_the_means_of_blocks(height: int, width: int, level: int) -> None:
    image = noise(height, width)
    found = image.level(level)
    assert found.dtype == np.uint8
    # Each level rounds once, by half a grey level at most.
    np.testing.assert_allclose(found, block_means(image.pixels, 2**level), atol=0.5 * level)


def test_levels_do_not_depend_on_the_order_in_which_they_are_asked_for(group: Image) -> None:
    upwards, downwards = Image(group.pixels), Image(group.pixels)
    low = [upwards.level(k) for k in range(6)]
    high = [downwards.level(k) for k in reversed(range(6))][::-1]
    for a, b in zip(low, high, strict=True):
        np.testing.assert_array_equal(a, b)
    assert upwards.level(0) is group.pixels


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (50, 1), (5, 3)])
def test_there_is_something_at_every_level(height: int, width: int) -> None:
    image = noise(height, width)
    for level in (0, 1, 2, 3, 10, 40, 1):
        assert min(image.level(level).shape[:2]) >= 1


def test_the_identity_changes_nothing(group: Image) -> None:
    np.testing.assert_array_equal(warp(group, view_matrix(1.0, (0, 0)), group.width, group.height), group.pixels)


def test_a_shift_is_exact_and_black_outside(group: Image) -> None:
    moved = warp(group, view_matrix(1.0, (-20, 30)), 300, 200)
    expected = np.zeros((200, 300, 3), np.uint8)
    expected[:, 20:] = group.pixels[30:230, :280]
    np.testing.assert_array_equal(moved, expected)


def test_a_quarter_turn_is_exact(portrait: Image) -> None:
    side = portrait.width
    turn = np.array([[0, -1, side - 1], [1, 0, 0]], np.float64)
    np.testing.assert_array_equal(warp(portrait, turn, side, side), np.rot90(portrait.pixels, -1))


@pytest.mark.parametrize("level", [1, 2, 3])
def test_shrinking_by_a_power_of_two_gives_the_level_itself(group: Image, level: int) -> None:
    expected = group.level(level)
    shrunk = warp(group, view_matrix(0.5**level, (0, 0)), expected.shape[1], expected.shape[0])
    np.testing.assert_array_equal(shrunk, expected)


def test_enlarging_is_bilinear_with_pixel_centres_on_pixel_centres(portrait: Image) -> None:
    part = np.ascontiguousarray(portrait.pixels[60:160, 180:260])
    enlarged = warp(Image(part), view_matrix(3.0, (0, 0)), 240, 300)
    expected = cv2.resize(part, (240, 300), interpolation=cv2.INTER_LINEAR)
    inner = np.s_[3:-3, 3:-3]  # at the rim, warp has black beyond
    np.testing.assert_allclose(enlarged[inner].astype(int), expected[inner], atol=3)
    assert np.abs(enlarged[inner].astype(float) - expected[inner]).mean() < 0.3


@pytest.mark.parametrize("scale", [1.0, 0.9, 0.6, 0.37, 0.3, 0.2, 0.13])
def test_a_shrunk_photo_is_near_the_mean_of_its_pixels(group: Image, scale: float) -> None:
    matrix = view_matrix(scale, (400.3, 200.8))
    ideal = ideal_crop(group.pixels, matrix, 60)
    difference = np.abs(warp(group, matrix, 60, 60) - ideal).mean()
    assert difference < 2.5
    if scale < 0.4:
        assert difference < 0.7 * np.abs(without_pyramid(group.pixels, matrix, 60) - ideal).mean()


@pytest.mark.parametrize("times", [2, 3, 5, 8])  # the crop of this face is then 2.4 to 9.4 times smaller
def test_a_checkerboard_in_a_large_photo_does_not_show_in_the_crop(
    portrait: Image, portrait_face: Face, times: int
) -> None:
    large = enlarge(portrait.pixels[:240, :330], times)
    row, column = np.indices(large.shape[:2])
    squares = np.where((row + column) % 2, 60, -60)[:, :, None]
    pixels = np.clip(large * 0.5 + 64 + squares, 0, 255).astype(np.uint8)
    matrix = face_matrix(portrait_face, times)
    ideal = ideal_crop(pixels, matrix, CROP)
    assert np.abs(warp(Image(pixels), matrix, CROP, CROP) - ideal).mean() < 1.0
    assert np.abs(without_pyramid(pixels, matrix, CROP) - ideal).mean() > 10


def test_a_crop_out_of_a_large_photo_is_the_crop_out_of_the_small_one(portrait: Image, portrait_face: Face) -> None:
    large = Image(enlarge(portrait.pixels, 6))
    landmarks = (portrait_face.landmarks.astype(np.float64) + 0.5) * 6 - 0.5
    crop = align(large, landmarks, TEMPLATE, CROP)
    original = align(portrait, portrait_face.landmarks, TEMPLATE, CROP)
    assert np.abs(crop.astype(np.float64) - original).mean() < 1.5
