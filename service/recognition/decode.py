"""Encoded bytes to an upright RGB ``Image``; what is too large or no image is refused from its header."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageOps

from service.errors import ImageTooLarge, InvalidImage, UnsupportedMediaType
from service.recognition.types import Image

# Pillow tries only these decoders; each further one would be further attack surface.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"BM")

# Our own limit is checked from the header before Pillow's (which only warns, at 89 million pixels).
PillowImage.MAX_IMAGE_PIXELS = None

_SIXTEEN_BIT_GREY = ("I;16", "I;16B", "I;16L", "I;16N", "I")


# The coarsest level in which libjpeg decodes.
COARSEST = 3
# A photo is not decoded with a longer side below this: the detector sees no less than it does in a whole photo.
_LEAST_SIDE = 640


def decode(content: bytes, max_pixels: int, level: int = 0) -> Image:
    """Decode a JPEG, PNG, WebP or BMP.

    EXIF orientation is applied; greyscale, alpha (laid over white), 16-bit, palette and CMYK become plain RGB.
    The first frame of an animation is taken.

    Args:
        content: the encoded file.
        max_pixels: images with more are refused from their header, before any pixel is allocated.
        level: the coarsest level of the pyramid in which a JPEG may be decoded, up to 3; other formats are decoded
            whole. Sides must be multiples of 2^level, so that pixels lie where they lie in the pyramid of the whole
            photo; where they are not, a finer level is taken.

    Raises:
        UnsupportedMediaType: none of the four formats.
        ImageTooLarge: more than ``max_pixels``.
        InvalidImage: damaged, cut off, or empty.
    """
    if not content:
        raise InvalidImage("The image is empty (0 bytes).")
    encoded = _open(content)
    width, height = encoded.size
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"The image has {width} × {height} = {width * height:,} pixels; at most {max_pixels:,} are accepted. "
            "Send it smaller.",
            {"width": width, "height": height, "max_pixels": max_pixels},
        )
    try:
        chosen = _draft(encoded, level)
        encoded.load()
        return Image(_to_rgb(_upright(encoded)), chosen, lambda: decode(content, max_pixels).pixels)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything inside Pillow's plugins
        raise InvalidImage(f"The {encoded.format} image is damaged or cut off: {error}") from error


def _draft(encoded: PillowImage.Image, level: int) -> int:
    """Have a JPEG decoded in a coarser level, up to ``level``; the one it will be."""
    width, height = encoded.size
    while level and (width % 2**level or height % 2**level or max(width, height) >> level < _LEAST_SIDE):
        level -= 1
    if not level:
        return 0
    encoded.draft(encoded.mode, (width >> level, height >> level))
    # Other formats stay as they are.
    return (width // encoded.size[0]).bit_length() - 1


def _open(content: bytes) -> PillowImage.Image:
    try:
        return PillowImage.open(io.BytesIO(content), formats=FORMATS)
    except MemoryError:
        raise
    except Exception as error:  # not only UnidentifiedImageError: damaged headers raise struct.error, SyntaxError, …
        if content.startswith(_SIGNATURES) and (content[:4] != b"RIFF" or content[8:12] == b"WEBP"):
            raise InvalidImage(f"The image of {len(content):,} bytes is damaged or cut off in its header.") from error
        raise UnsupportedMediaType(
            f"The {len(content):,} bytes are not a readable JPEG, PNG, WebP or BMP image "
            f"(they begin with {content[:8].hex(' ')}).",
            {"accepted": list(FORMATS)},
        ) from error


def _upright(image: PillowImage.Image) -> PillowImage.Image:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:  # damaged EXIF beside sound pixels: the photo is taken as it lies
        return image
    return image


def _to_rgb(image: PillowImage.Image) -> NDArray[np.uint8]:
    """uint8 (H, W, 3), contiguous."""
    if image.mode in _SIXTEEN_BIT_GREY:
        # Pillow would clip at 255. 257 = 65535 / 255.
        wide = np.asarray(image).astype(np.uint32)
        grey = ((np.clip(wide, 0, 65535) + 128) // 257).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        # Under transparent pixels any colour may lie; white is what viewers show.
        layers = image.convert("RGBA")
        ground = PillowImage.new("RGBA", layers.size, (255, 255, 255, 255))
        image = PillowImage.alpha_composite(ground, layers)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
