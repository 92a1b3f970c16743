"""What is no image, no whole image, or too large an image: refused with the right error, and cheaply."""

import io
import json
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from service.errors import ImageTooLarge, InvalidImage, UnsupportedMediaType
from service.recognition.decode import decode
from service.recognition.types import Image

MAX_PIXELS = 50_000_000


@pytest.fixture(scope="module")
def small(portrait: Image) -> Pillow.Image:
    """A real photo of a face, 60 × 70."""
    return Pillow.fromarray(portrait.pixels[50:190, 160:280]).resize((60, 70))


def encode(image: Pillow.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(width: int, height: int) -> bytes:
    """8-bit RGB; the rows begin to come and are black."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(60_000_000), 1 if width * height < 1_000_000 else 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg_bomb(width: int, height: int, photo: Pillow.Image) -> bytes:
    """The photo, which now says that it is larger."""
    content = bytearray(encode(photo, "JPEG"))
    size_at = content.index(b"\xff\xc0") + 5
    content[size_at : size_at + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def webp_bomb(width: int, height: int) -> bytes:
    """Lossless, all of one colour."""
    # VP8L: 14 bits of each side less one, then: no transform, no colour cache, and five codes of one symbol each.
    bits = (width - 1) | (height - 1) << 14
    data = b"\x2f" + struct.pack("<I", bits) + bytes([0x88, 0x88, 0x08]) + bytes(25)
    body = b"WEBPVP8L" + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def bmp_bomb(width: int, height: int) -> bytes:
    """24 bits, of which hardly any follow."""
    return struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 1054, 0, 0, 54, 40, width, height, 1, 24, *[0] * 6) + bytes(1000)


def test_no_bytes_are_no_image() -> None:
    with pytest.raises(InvalidImage, match="empty") as caught:
        decode(b"", MAX_PIXELS)
    assert not isinstance(caught.value, UnsupportedMediaType)


@pytest.mark.parametrize(
    "content",
    [
        b"\0",
        b"x",
        b"A letter, not a photo.\n" * 50,
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7\n",
        b"RIFF\x24\0\0\0WAVEfmt " + bytes(28),
        bytes(999),
    ],
)
def test_what_is_no_image_is_an_unsupported_type(content: bytes) -> None:
    with pytest.raises(UnsupportedMediaType, match="JPEG, PNG, WebP or BMP") as caught:
        decode(content, MAX_PIXELS)
    assert caught.value.details == {"accepted": ["JPEG", "PNG", "WEBP", "BMP"]}
    assert content[:8].hex(" ") in caught.value.message


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "ICO", "PPM", "JPEG2000", "TGA", "EPS", "PDF"])
def test_other_kinds_of_image_are_an_unsupported_type(small: Pillow.Image, kind: str) -> None:
    with pytest.raises(UnsupportedMediaType):
        decode(encode(small, kind), MAX_PIXELS)


@pytest.mark.parametrize(
    ("kind", "options", "dispensable"),
    [
        ("JPEG", {"quality": 90}, 0),
        ("JPEG", {"quality": 90, "progressive": True}, 0),
        ("PNG", {}, 24),  # checksums and an empty chunk: the pixels are whole without them
        ("WEBP", {}, 0),
        ("BMP", {}, 0),
    ],
)
def test_an_image_cut_off_anywhere_is_refused(
    small: Pillow.Image, kind: str, options: dict[str, Any], dispensable: int
) -> None:
    content = encode(small, kind, **options)
    for length in range(1, len(content) - dispensable, 3):
        with pytest.raises(InvalidImage):
            decode(content[:length], MAX_PIXELS)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_half_an_image_is_damaged_and_not_of_an_unsupported_type(small: Pillow.Image, kind: str) -> None:
    content = encode(small, kind)
    with pytest.raises(InvalidImage) as caught:
        decode(content[: len(content) // 2], MAX_PIXELS)
    assert not isinstance(caught.value, UnsupportedMediaType)


def test_a_png_with_a_wrong_checksum_is_damaged(small: Pillow.Image) -> None:
    content = bytearray(encode(small, "PNG"))
    content[len(content) // 2] ^= 0x10
    with pytest.raises(InvalidImage, match="PNG image is damaged or cut off") as caught:
        decode(bytes(content), MAX_PIXELS)
    assert not isinstance(caught.value, UnsupportedMediaType)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_damaged_bits_give_an_image_or_the_error_for_bad_images(small: Pillow.Image, kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    content = np.frombuffer(encode(small, kind), np.uint8)
    head = min(len(content), 700)  # headers and tables, where damage is most telling
    outcomes = set()
    for turn in range(150):
        damaged = content.copy()
        places = rng.integers(0, head if turn % 2 else len(content), rng.integers(1, 5))
        damaged[places] ^= 1 << rng.integers(0, 8, len(places), dtype=np.uint8)
        if turn % 5 == 0:  # a stretch is missing
            start = int(rng.integers(0, len(content)))
            damaged = np.delete(damaged, slice(start, start + int(rng.integers(1, 40))))
        try:
            image = decode(damaged.tobytes(), 1_000_000)
        except InvalidImage:
            outcomes.add("refused")
        else:
            assert image.pixels.dtype == np.uint8
            assert image.pixels.shape == (image.height, image.width, 3)
            assert 0 < image.height * image.width <= 1_000_000
            outcomes.add("decoded")
    # Checksums let hardly any damage to a PNG pass.
    assert outcomes - {"decoded"} == {"refused"}
    assert kind == "PNG" or "decoded" in outcomes


@pytest.mark.parametrize(("width", "height"), [(0, 10), (10, 0), (0, 0)])
def test_an_image_without_pixels_is_refused(small: Pillow.Image, width: int, height: int) -> None:
    for content in (png_bomb(width, height), jpeg_bomb(width, height, small), bmp_bomb(width, height)):
        with pytest.raises(InvalidImage):
            decode(content, MAX_PIXELS)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_the_limit_is_exact(small: Pillow.Image, kind: str) -> None:
    at_the_limit = small.resize((40, 25))
    one_row_more = small.resize((40, 26))
    assert decode(encode(at_the_limit, kind), 1000).pixels.shape == (25, 40, 3)
    with pytest.raises(ImageTooLarge, match=r"40 × 26 = 1,040 pixels; at most 1,000 are accepted") as caught:
        decode(encode(one_row_more, kind), 1000)
    assert caught.value.details == {"width": 40, "height": 26, "max_pixels": 1000}


def test_the_bombs_are_what_they_say(small: Pillow.Image) -> None:
    black = decode(webp_bomb(30, 20), MAX_PIXELS).pixels
    assert black.shape == (20, 30, 3)
    assert (black == black[0, 0]).all()
    assert decode(jpeg_bomb(60, 70, small), MAX_PIXELS).pixels.shape == (70, 60, 3)
    assert decode(bmp_bomb(10, 20), MAX_PIXELS).pixels.shape == (20, 10, 3)
    assert decode(png_bomb(400, 300), MAX_PIXELS).pixels.shape == (300, 400, 3)
    assert 50_000 < len(png_bomb(50_000, 50_000)) < 70_000


def test_bombs_are_refused_from_their_header(small: Pillow.Image, tmp_path: Path) -> None:
    bombs = {
        "png": (png_bomb(50_000, 50_000), 2_500_000_000),
        "jpeg": (jpeg_bomb(65_500, 65_500, small), 65_500**2),
        "webp": (webp_bomb(16_384, 16_384), 16_384**2),
        "bmp": (bmp_bomb(50_000, 50_000), 2_500_000_000),
    }
    for name, (content, _) in bombs.items():
        (tmp_path / name).write_bytes(content)
    # Pillow's memory is not Python's, so the system is asked; in a process of its own, whose peak is not yet high.
    program = f"""
import json, pathlib, resource
from service.errors import ImageTooLarge
from service.recognition.decode import decode

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

found = {{}}
for path in pathlib.Path({str(tmp_path)!r}).iterdir():
    content = path.read_bytes()
    before = peak()
    try:
        decode(content, {MAX_PIXELS})
    except ImageTooLarge as error:
        found[path.name] = [error.details["width"] * error.details["height"], peak() - before]
print(json.dumps(found))
"""
    start = time.monotonic()
    found = json.loads(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout)
    assert time.monotonic() - start < 10
    assert {name: pixels for name, (pixels, _) in found.items()} == {name: n for name, (_, n) in bombs.items()}
    assert max(grown for _, grown in found.values()) < 50_000_000
