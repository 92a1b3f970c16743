"""Every kind of image that is accepted, against OpenCV's decoder or arithmetic on the pixels that were written."""

import io
import queue
import random
import struct
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, ImageOps
from PIL import Image as Pillow

from service.recognition.decode import decode
from service.recognition.types import Image

Pixels = NDArray[np.uint8]

MAX_PIXELS = 2_000_000

# EXIF 2.3, tag 274: how the stored picture is made out of the upright one.
STORED: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),  # the camera was turned: 90° clockwise brings it upright
    7: lambda upright: np.rot90(upright.transpose(1, 0, 2), 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.fixture(scope="module")
def photo(portrait: Image) -> Pixels:
    """A real photo of a face, 141 × 160: neither square nor of even width."""
    return np.ascontiguousarray(portrait.pixels[40:200, 150:291])


def encode(pixels: NDArray[Any] | Pillow.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image = pixels if isinstance(pixels, Pillow.Image) else Pillow.fromarray(np.ascontiguousarray(pixels))
    image.save(out, kind, **options)
    return out.getvalue()


def decoded(content: bytes) -> Pixels:
    pixels = decode(content, MAX_PIXELS).pixels
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.flags.c_contiguous
    return pixels


def by_opencv(content: bytes) -> Pixels:
    """RGB; upright by EXIF."""
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    return np.asarray(pixels[:, :, ::-1], np.uint8)


def mean_difference(a: NDArray[Any], b: NDArray[Any]) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(np.float64) - b).mean())


def oriented(orientation: int, kind: int = 3, count: int = 1) -> bytes:
    """EXIF with nothing but an orientation; it is properly of kind 3, a 16-bit number, and there is one."""
    entry = struct.pack("<HHII", ExifTags.Base.Orientation, kind, count, orientation)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True, "exact": True})])
def test_lossless_kinds_give_back_every_pixel(photo: Pixels, kind: str, options: dict[str, Any]) -> None:
    np.testing.assert_array_equal(decoded(encode(photo, kind, **options)), photo)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [30, 95])
def test_a_jpeg_has_the_pixels_that_opencv_decodes(
    photo: Pixels, quality: int, subsampling: int, progressive: bool
) -> None:
    content = encode(photo, "JPEG", quality=quality, subsampling=subsampling, progressive=progressive)
    np.testing.assert_array_equal(decoded(content), by_opencv(content))
    assert mean_difference(decoded(content), photo) < (12 if quality == 30 else 3)


def test_a_published_photo_has_the_pixels_that_opencv_decodes(group_photo: bytes) -> None:
    np.testing.assert_array_equal(decoded(group_photo), by_opencv(group_photo))


def test_photos_of_lfw_have_the_pixels_that_opencv_decodes(lfw: Path) -> None:
    paths = random.Random(1).sample(sorted(lfw.glob("images/*/*_0001.jpg")), 40)
    for path in paths:
        np.testing.assert_array_equal(decoded(path.read_bytes()), by_opencv(path.read_bytes()), err_msg=path.name)


def test_a_lossy_webp_is_near_the_photo(photo: Pixels) -> None:
    content = encode(photo, "WEBP", quality=95)
    assert mean_difference(decoded(content), photo) < 3
    np.testing.assert_allclose(decoded(content), by_opencv(content), atol=3)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True})])
def test_every_exif_orientation_gives_the_same_upright_pixels(
    photo: Pixels, orientation: int, kind: str, options: dict[str, Any]
) -> None:
    content = encode(STORED[orientation](photo), kind, exif=oriented(orientation), **options)
    np.testing.assert_array_equal(decoded(content), photo)


@pytest.mark.parametrize("orientation", STORED)
def test_every_exif_orientation_of_a_jpeg_is_taken_as_opencv_takes_it(photo: Pixels, orientation: int) -> None:
    content = encode(STORED[orientation](photo), "JPEG", exif=oriented(orientation), quality=95, subsampling=0)
    np.testing.assert_array_equal(decoded(content), by_opencv(content))
    assert mean_difference(decoded(content), photo) < 2


@pytest.mark.parametrize(
    "exif",
    [
        oriented(0),
        oriented(9),
        oriented(65535),
        oriented(6, count=0),
        oriented(0x36, kind=2),  # the text "6"
        oriented(6, kind=5),  # a fraction that would lie at byte 6
        oriented(6, kind=99),
        oriented(6, count=2**31),
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_orientation_that_means_nothing_is_passed_over(photo: Pixels, kind: str, exif: bytes) -> None:
    np.testing.assert_array_equal(decoded(encode(photo, kind, exif=exif)), decoded(encode(photo, kind)))


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0" + bytes(range(200)),
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40,  # 65535 entries, of which none is there
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0",  # cut off within the orientation
        b"Exif\0\0",
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_corrupt_exif_beside_sound_pixels_is_passed_over(photo: Pixels, kind: str, exif: bytes) -> None:
    np.testing.assert_array_equal(decoded(encode(photo, kind, exif=exif)), decoded(encode(photo, kind)))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP"])
def test_grey_becomes_three_equal_channels(photo: Pixels, kind: str) -> None:
    grey = np.ascontiguousarray(photo[:, :, 1])
    pixels = decoded(encode(grey, kind, **({"lossless": True} if kind == "WEBP" else {"quality": 95})))
    assert (pixels == pixels[:, :, :1]).all()
    assert mean_difference(pixels[:, :, 0], grey) <= (2 if kind == "JPEG" else 0)


def test_a_palette_is_looked_up(photo: Pixels) -> None:
    palette = Pillow.fromarray(photo).quantize(64)
    colours = np.array(palette.getpalette(), np.uint8).reshape(-1, 3)
    for kind in ("PNG", "BMP"):
        np.testing.assert_array_equal(decoded(encode(palette, kind)), colours[np.asarray(palette)])


def test_a_palette_with_transparency_lies_over_white(photo: Pixels) -> None:
    palette = Pillow.fromarray(photo).quantize(16)
    colours = np.array(palette.getpalette(), np.float64).reshape(-1, 3)[:16]
    alpha = np.linspace(0, 255, 16).round()
    over_white = (colours * alpha[:, None] + 255 * (255 - alpha[:, None])) / 255
    pixels = decoded(encode(palette, "PNG", transparency=bytes(alpha.astype(np.uint8).tolist())))
    np.testing.assert_allclose(pixels, over_white[np.asarray(palette)], atol=1)


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_one_bit_becomes_black_and_white(photo: Pixels, kind: str) -> None:
    bits = photo[:, :, 0] > 120
    expected = np.repeat(np.where(bits, 255, 0)[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(decoded(encode(Pillow.fromarray(bits), kind)), expected)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True})])
def test_alpha_lies_over_white(photo: Pixels, kind: str, options: dict[str, Any]) -> None:
    alpha = np.random.default_rng(0).integers(0, 256, photo.shape[:2], dtype=np.uint8)
    alpha[:40], alpha[-40:] = 0, 255
    share = alpha[:, :, None] / 255
    pixels = decoded(encode(np.dstack([photo, alpha]), kind, **options))
    np.testing.assert_allclose(pixels, photo * share + 255 * (1 - share), atol=1)
    assert (pixels[:40] == 255).all()
    np.testing.assert_array_equal(pixels[-40:], photo[-40:])


def test_grey_with_alpha_lies_over_white(photo: Pixels) -> None:
    grey, alpha = photo[:, :, 1], np.broadcast_to(np.arange(photo.shape[1], dtype=np.uint8), photo.shape[:2])
    content = encode(Pillow.fromarray(np.dstack([grey, alpha]), "LA"), "PNG")
    over_white = grey * (alpha / 255) + 255 * (1 - alpha / 255)
    np.testing.assert_allclose(decoded(content), np.repeat(over_white[:, :, None], 3, axis=2), atol=1)


def test_a_transparent_colour_lies_over_white(photo: Pixels) -> None:
    marked = photo.copy()
    marked[10:20, 10:20] = (1, 2, 3)
    pixels = decoded(encode(marked, "PNG", transparency=(1, 2, 3)))
    assert (pixels[10:20, 10:20] == 255).all()
    untouched = (marked != (1, 2, 3)).any(axis=2)
    np.testing.assert_array_equal(pixels[untouched], photo[untouched])


def test_a_cmyk_jpeg_has_the_colours_of_the_photo(photo: Pixels) -> None:
    content = encode(Pillow.fromarray(photo).convert("CMYK"), "JPEG", quality=95, subsampling=0)
    assert Pillow.open(io.BytesIO(content)).mode == "CMYK"
    assert mean_difference(decoded(content), photo) < 2
    assert mean_difference(decoded(content), by_opencv(content)) < 2


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    every_value = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    content = cv2.imencode(".png", every_value)[1].tobytes()
    expected = np.round(every_value / 257)
    np.testing.assert_array_equal(decoded(content), np.repeat(expected[:, :, None], 3, axis=2))


def test_sixteen_bit_colour_is_scaled_and_not_clipped() -> None:
    wide = np.random.default_rng(0).integers(0, 65536, (120, 90, 3), dtype=np.uint16)
    wide[0] = np.array([0, 1, 65535])
    pixels = decoded(cv2.imencode(".png", wide[:, :, ::-1])[1].tobytes())
    np.testing.assert_allclose(pixels, wide / 257, atol=1)
    assert pixels[0, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True})])
def test_the_first_frame_of_an_animation_is_taken(photo: Pixels, kind: str, options: dict[str, Any]) -> None:
    later = [Pillow.fromarray(255 - photo), Pillow.fromarray(photo[::-1].copy())]
    content = encode(photo, kind, save_all=True, append_images=later, duration=100, **options)
    assert getattr(Pillow.open(io.BytesIO(content)), "n_frames", 1) == 3
    np.testing.assert_array_equal(decoded(content), photo)


@pytest.mark.parametrize("orientation", [1, 6])
def test_the_first_picture_of_a_telephones_jpeg_is_taken(photo: Pixels, orientation: int) -> None:
    stored = np.ascontiguousarray(STORED[orientation](photo))
    small = Pillow.fromarray(255 - stored[::2, ::2])
    options: dict[str, Any] = {"quality": 95, "subsampling": 0, "exif": oriented(orientation)}
    content = encode(stored, "MPO", save_all=True, append_images=[small], **options)
    assert Pillow.open(io.BytesIO(content)).format == "MPO"
    np.testing.assert_array_equal(decoded(content), by_opencv(content))


def test_a_telephones_jpeg_whose_further_pictures_are_missing_is_taken(photo: Pixels) -> None:
    small = Pillow.fromarray(255 - photo[::2, ::2])
    content = encode(photo, "MPO", save_all=True, append_images=[small])
    first = content[: content.index(b"\xff\xd9\xff\xd8") + 2]
    assert len(first) < len(content)
    np.testing.assert_array_equal(decoded(first), by_opencv(content))


def test_bytes_after_the_image_do_not_matter(photo: Pixels) -> None:
    for kind in ("JPEG", "PNG"):
        content = encode(photo, kind)
        np.testing.assert_array_equal(decoded(content + b"motion photo" * 100), decoded(content))


def test_decoding_side_by_side_leaves_the_warnings_of_the_process_alone(
    photo: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = encode(photo, "PNG")
    inside: queue.Queue[threading.Event] = queue.Queue()
    turn_upright = ImageOps.exif_transpose

    def wait_then_turn_upright(*args: Any, **options: Any) -> Any:
        go_on = threading.Event()
        inside.put(go_on)
        assert go_on.wait(10)
        return turn_upright(*args, **options)

    monkeypatch.setattr(ImageOps, "exif_transpose", wait_then_turn_upright)
    with warnings.catch_warnings(), ThreadPoolExecutor(2) as threads:
        before = list(warnings.filters)
        runs = []
        for _ in range(2):
            runs.append((threads.submit(decoded, content), inside.get(timeout=10)))
        for run, go_on in runs:  # the first to begin is the first to end
            go_on.set()
            np.testing.assert_array_equal(run.result(10), photo)
        assert warnings.filters == before
