"""Crops of a folder: those that the service would embed, made once, and never used when something has changed."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.crops import Crops, cached_crops, photos_of, scaled
from service.engine import Engine

SIZE = 112


@pytest.fixture
def photos(tmp_path: Path, skimage_data: Path, group_photo: bytes) -> Path:
    """A folder of two persons: one portrait twice, a photo of six people, and two files without a face."""
    folder = tmp_path / "photos"
    for name, content in {
        "ann/1.png": (skimage_data / "astronaut.png").read_bytes(),
        "ann/2.png": (skimage_data / "astronaut.png").read_bytes(),
        "ann/coffee.png": (skimage_data / "coffee.png").read_bytes(),
        "bob/group.jpg": group_photo,
        "bob/damaged.jpg": b"\xff\xd8\xff damaged",
        "bob/notes.txt": b"not a photo",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def crops_of(photos: Path, cache: Path, engine: Engine, size: int = SIZE) -> Crops:
    return cached_crops(photos, photos_of(photos), cache, engine, size, workers=2)


def test_crops_are_those_that_the_service_embeds(
    photos: Path, tmp_path: Path, engine: Engine, astronaut: bytes
) -> None:
    crops = crops_of(photos, tmp_path / "cache", engine)
    assert crops.names == ("ann/1.png", "ann/2.png", "bob/group.jpg")
    assert crops.without_face == ("ann/coffee.png", "bob/damaged.jpg")
    assert crops.pixels.shape == (3, SIZE, SIZE, 3)
    served = engine.subject(astronaut, "single", "image").embedded.crop
    np.testing.assert_array_equal(crops.pixels[0], served)
    # Of the six people, the one nearest to the middle, in units of its own size.
    group, faces = engine.embed((photos / "bob/group.jpg").read_bytes(), "all")
    centre = np.array([group.width, group.height]) / 2
    distances = [np.linalg.norm((e.face.box[:2] + e.face.box[2:]) / 2 - centre) / e.face.area**0.5 for _, e in faces]
    np.testing.assert_array_equal(crops.pixels[2], faces[int(np.argmin(distances))][1].crop)


def test_smaller_crops_show_the_same(photos: Path, tmp_path: Path, engine: Engine) -> None:
    large, small = (crops_of(photos, tmp_path / str(size), engine, size) for size in (SIZE, SIZE // 2))
    assert small.alignment == scaled(engine.card.contract.alignment, SIZE // 2)
    shrunk = cv2.resize(large.pixels[0], (SIZE // 2, SIZE // 2), interpolation=cv2.INTER_AREA)
    difference = np.abs(shrunk.astype(int) - small.pixels[0]).mean()
    moved = np.abs(np.roll(shrunk, 1, axis=1).astype(int) - small.pixels[0]).mean()
    assert difference < moved / 3


def test_cache_is_used_only_for_what_it_was_made_of(photos: Path, tmp_path: Path, engine: Engine) -> None:
    cache = tmp_path / "cache"
    first = crops_of(photos, cache, engine)
    written = (cache / "crops.npy").stat().st_mtime_ns
    again = crops_of(photos, cache, engine)
    assert (cache / "crops.npy").stat().st_mtime_ns == written
    assert again.digest == first.digest
    np.testing.assert_array_equal(again.pixels, first.pixels)

    # Another photo under the same name, of the same length.
    content = bytearray((photos / "ann/2.png").read_bytes())
    (photos / "ann/2.png").write_bytes((photos / "bob/group.jpg").read_bytes())
    changed = crops_of(photos, cache, engine)
    assert changed.digest != first.digest
    np.testing.assert_array_equal(changed.pixels[1], first.pixels[2])
    (photos / "ann/2.png").write_bytes(content)

    # Made by another detector.
    manifest = json.loads((cache / "manifest.json").read_text())
    crops_of(photos, cache, engine)
    pixels = np.load(cache / "crops.npy")
    np.save(cache / "crops.npy", np.zeros_like(pixels))
    manifest = json.loads((cache / "manifest.json").read_text())
    assert not crops_of(photos, cache, engine).pixels.any()  # trusted, as the manifest says the same
    manifest["made_by"]["detector"] = "0" * 64
    (cache / "manifest.json").write_text(json.dumps(manifest))
    np.testing.assert_array_equal(crops_of(photos, cache, engine).pixels, first.pixels)

    # Interrupted, or damaged.
    (cache / "manifest.json").write_text("{")
    np.testing.assert_array_equal(crops_of(photos, cache, engine).pixels, first.pixels)
    (cache / "crops.npy").write_bytes(b"")
    np.testing.assert_array_equal(crops_of(photos, cache, engine).pixels, first.pixels)
    assert sorted(path.name for path in cache.iterdir()) == ["crops.npy", "manifest.json"]


def test_folders_that_cannot_be_used(tmp_path: Path, photos: Path, engine: Engine) -> None:
    with pytest.raises(ValueError, match="has no sub-folder with 4 photos or more"):
        photos_of(photos, min_photos=4)
    assert photos_of(photos, min_photos=3) == ["ann/1.png", "ann/2.png", "ann/coffee.png"]
    with pytest.raises(ValueError, match="missing has no sub-folder with 1 photos"):
        photos_of(tmp_path / "missing")
    with pytest.raises(ValueError, match="none of the 1 photos in .* has a usable face"):
        cached_crops(photos, ["ann/coffee.png"], tmp_path / "cache", engine, SIZE, workers=1)
