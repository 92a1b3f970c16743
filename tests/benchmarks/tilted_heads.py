"""Tilted heads: the tilt that landmarks show, and what it does to the embedding, with and without straightening.

    python -m tests.benchmarks.tilted_heads --images LFW/images [--data-dir data] [--bundle open] [--faces 25]

Photos of LFW are turned about their middle. Given are the median tilt of the landmarks, relative to the photo as it
is, and the cosine between the embedding of the turned and of the upright photo.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from service.engine import Engine, load_engine
from service.recognition.detect import detect
from service.recognition.tilt import TiltOptions, straighten, tilt
from service.recognition.types import Face, Image
from service.settings import read_settings

ANGLES = (-30, -20, -10, -5, 5, 10, 20, 30)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--images", type=Path, required=True)
    arguments.add_argument("--data-dir", type=Path)
    arguments.add_argument("--bundle")
    arguments.add_argument("--faces", type=int, default=25)
    args = arguments.parse_args()
    engine = load_engine(read_settings(data_dir=args.data_dir, bundle=args.bundle))
    paths = sorted(args.images.glob("*/*_0001.jpg"))
    chosen = np.random.default_rng(3).choice(len(paths), args.faces, replace=False)
    photos = [engine.recognizer.decode(paths[i].read_bytes()) for i in chosen]
    print(f"{args.faces} faces; tilt in degrees, cosine to the upright photo: median, lowest tenth\n")
    print(f"{'turned':>8}{'as detected':>30}{'straightened':>30}")
    for angle in ANGLES:
        seen = np.array([measure(engine, photo, angle) for photo in photos])  # (faces, 2 ways, tilt and cosine)
        tilts, cosines = np.median(seen[..., 0], axis=0), seen[..., 1]
        cells = [
            f"{tilts[way]:14.1f}{np.median(cosines[:, way]):8.3f}{np.quantile(cosines[:, way], 0.1):8.3f}"
            for way in (0, 1)
        ]
        print(f"{angle:>7}°" + "".join(cells))


def measure(engine: Engine, photo: Image, angle: float) -> list[tuple[float, float]]:
    """(tilt, cosine) of the turned photo's face as detected, and straightened."""
    recognizer = engine.recognizer
    upright = central(recognizer.detect(photo), photo)
    [reference] = recognizer.embed([(photo, upright)])
    middle = (photo.width / 2, photo.height / 2)
    pixels = cv2.warpAffine(photo.pixels, cv2.getRotationMatrix2D(middle, -angle, 1.0), (photo.width, photo.height))
    turned = Image(np.asarray(pixels, np.uint8))
    found = central(detect(turned, recognizer.detector, recognizer.options.detection), photo)
    [better] = straighten(turned, recognizer.detector, [found], recognizer.options.tilt or TiltOptions())
    results = []
    for face in (found, better):
        [embedded] = recognizer.embed([(turned, face)])
        results.append(
            (tilt(face.landmarks) - tilt(upright.landmarks), float(embedded.embedding @ reference.embedding))
        )
    return results


def central(faces: list[Face], photo: Image) -> Face:
    if not faces:
        raise SystemExit("A turned face was not found; take other photos with --faces.")
    return min(faces, key=lambda f: float(np.abs(f.box[:2] + f.box[2:] - [photo.width, photo.height]).sum()))


if __name__ == "__main__":
    main()
