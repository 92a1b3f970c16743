"""Photos that were damaged in every way, through decode → detect → align.

    python -m tests.fuzz.photos --data-dir DIR [--cases 1000000] [--seed N] [--out reports/fuzz]

A case is known by its number and the seed alone. What may happen: pixels, faces and crops of the right shapes, or one
of the three refusals of a photo; anything else, a crash of the decoder and more than ``SLOW_S`` seconds among it, is a
finding, and its photo is written to ``--out``.
"""

import argparse
import io
import random
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from service.engine import load_engine
from service.errors import InvalidImage
from service.recognition.recognizer import Recognizer
from service.settings import Settings
from tests.fuzz.samples import sample_portrait

SLOW_S = 10.0
MOST_PIXELS = 4_000_000


def corpus(portrait: bytes) -> list[bytes]:
    """Small sound photos of every kind, some with a face, that the damaged ones are made of."""
    face = Image.open(io.BytesIO(portrait)).convert("RGB")
    small = face.resize((160, 160))
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 60, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: list[tuple[Image.Image, str, dict[str, object]]] = [
        (small, "JPEG", {"quality": 80}),
        (small, "JPEG", {"progressive": True, "exif": exif}),
        (small.convert("CMYK"), "JPEG", {}),
        (small.convert("L"), "JPEG", {}),
        (small, "PNG", {}),
        (noise.convert("RGBA"), "PNG", {}),
        (noise.convert("P"), "PNG", {"transparency": 3}),
        (noise.convert("I;16"), "PNG", {}),
        (noise.convert("1"), "PNG", {}),
        (small, "WEBP", {"quality": 70}),
        (noise.convert("RGBA"), "WEBP", {"lossless": True}),
        (noise, "BMP", {}),
        (noise.convert("P"), "BMP", {}),
    ]
    out = []
    for image, kind, options in kinds:
        content = io.BytesIO()
        image.save(content, kind, **options)
        out.append(content.getvalue())
    animation = io.BytesIO()
    small.save(animation, "WEBP", save_all=True, append_images=[small.rotate(90)])
    return [*out, animation.getvalue()]


def damaged(seeds: list[bytes], rng: random.Random) -> bytes:
    """One photo, damaged once or several times."""
    content = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        rng.choice(_DAMAGES)(content, seeds, rng)
        if not content:
            break
    if content[:4] == b"\x89PNG" and rng.random() < 0.7:
        _mend_checksums(content)
    return bytes(content)


def _flip(content: bytearray, _: list[bytes], rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 8, 64))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def _set(content: bytearray, _: list[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(content))
    value = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF))
    packed = struct.pack(rng.choice((">I", "<I")), value)[: rng.choice((1, 2, 4))]
    content[at : at + len(packed)] = packed


def _set_early(content: bytearray, seeds: list[bytes], rng: random.Random) -> None:
    """Headers, where sizes and counts are."""
    head = content[:64]
    _set(head, seeds, rng)
    content[:64] = head


def _cut(content: bytearray, _: list[bytes], rng: random.Random) -> None:
    del content[rng.randrange(len(content)) :]


def _remove(content: bytearray, _: list[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(content))
    del content[at : at + rng.choice((1, 4, 64, 1024))]


def _repeat(content: bytearray, _: list[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(content))
    piece = content[at : at + rng.choice((1, 4, 64, 1024))]
    content[at:at] = piece * rng.choice((1, 3, 20))


def _splice(content: bytearray, seeds: list[bytes], rng: random.Random) -> None:
    other = rng.choice(seeds)
    content[rng.randrange(len(content)) :] = other[rng.randrange(len(other)) :]


def _noise(content: bytearray, _: list[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(content))
    size = rng.choice((4, 64, 512))
    content[at : at + size] = rng.randbytes(size)


_DAMAGES: tuple[Callable[[bytearray, list[bytes], random.Random], None], ...] = (
    _flip,
    _set,
    _set_early,
    _cut,
    _remove,
    _repeat,
    _splice,
    _noise,
)


def _mend_checksums(content: bytearray) -> None:
    """So that the damage gets past PNG's first check."""
    at = 8
    while at + 12 <= len(content):
        (size,) = struct.unpack_from(">I", content, at)
        end = at + 8 + size
        if end + 4 > len(content):
            return
        struct.pack_into(">I", content, end, zlib.crc32(content[at + 4 : end]))
        at = end + 4


def check(recognizer: Recognizer, content: bytes) -> str:
    """What became of a photo, in a word. Raises whatever must not happen."""
    start = time.monotonic()
    try:
        image = recognizer.decode(content)
    except InvalidImage as error:
        if "died" in error.message:
            raise
        return type(error).__name__
    assert image.pixels.dtype == np.uint8
    assert image.pixels.shape == (image.height, image.width, 3)
    assert 0 < image.height * image.width <= recognizer.options.max_pixels
    faces = recognizer.detect(image)
    for face in faces:
        assert np.isfinite(face.box).all()
        assert np.isfinite(face.landmarks).all()
        crop = recognizer.crop(image, face)
        assert (crop.shape, crop.dtype) == ((112, 112, 3), np.uint8)
        assert all(np.isfinite(value) for value in recognizer.quality(image, face).details().values())
    assert time.monotonic() - start < SLOW_S, "it took too long"
    return "faces" if faces else "no face"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data-dir", type=Path, required=True)
    arguments.add_argument("--cases", type=int, default=1_000_000)
    arguments.add_argument("--seed", type=int, default=int(time.time()))
    arguments.add_argument("--first", type=int, default=0, help="number of the first case")
    arguments.add_argument("--out", type=Path, default=Path("reports/fuzz"))
    args = arguments.parse_args()
    recognizer = load_engine(Settings(data_dir=args.data_dir, max_pixels=MOST_PIXELS), strangers=True).recognizer
    seeds = corpus(sample_portrait())
    counts: Counter[str] = Counter()
    began = time.monotonic()
    for number in range(args.first, args.first + args.cases):
        content = damaged(seeds, random.Random(f"{args.seed} {number}"))
        try:
            counts[check(recognizer, content)] += 1
        except Exception as error:
            counts["findings"] += 1
            args.out.mkdir(parents=True, exist_ok=True)
            (args.out / f"{args.seed}-{number}").write_bytes(content)
            print(f"FINDING in case {number} of seed {args.seed}: {type(error).__name__}: {error}", flush=True)
        if (number + 1) % 50_000 == 0:
            print(f"{number + 1} cases, {time.monotonic() - began:.0f} s: {dict(counts)}", flush=True)
    print(f"seed {args.seed}, {args.cases} cases, {time.monotonic() - began:.0f} s: {dict(counts)}")
    if counts["findings"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
