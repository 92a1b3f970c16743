"""How small a face may be: recall by face width, in one look of the network and with the whole detector.

    python -m tests.benchmarks.detection_sizes --images LFW/images [--data-dir data] [--faces 150]

Photos of LFW are shrunk until their central face has the width asked for, and laid on a photo without faces. A face
counts as found when a box covers more than 0.4 of their union.
"""

import argparse
from importlib import resources
from pathlib import Path

import cv2
import numpy as np

from service.engine import Engine, load_engine
from service.recognition.proposals import propose
from service.recognition.types import Image
from service.settings import read_settings

WIDTHS = (12, 14, 16, 18, 20, 24, 28, 32)
CANVAS = 640


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--images", type=Path, required=True)
    arguments.add_argument("--data-dir", type=Path)
    arguments.add_argument("--faces", type=int, default=150)
    args = arguments.parse_args()
    engine = load_engine(read_settings(data_dir=args.data_dir))
    rng = np.random.default_rng(1)
    paths = sorted(args.images.glob("*/*_0001.jpg"))
    chosen = [paths[i] for i in rng.choice(len(paths), args.faces, replace=False)]
    print(f"recall of {args.faces} faces\n\nwidth   one look, score ≥ 0.1   one look, score ≥ 0.6   detector")
    for width in WIDTHS:
        found = np.array([look(engine, path, width, rng) for path in chosen])
        print(
            f"{width:5}"
            + "".join(f"{100 * share:{column}.1f} %" for share, column in zip(found.mean(0), (22, 22, 12), strict=True))
        )


def look(engine: Engine, path: Path, width: int, rng: np.random.Generator) -> tuple[bool, bool, bool]:
    """Whether one face is found: proposed at 0.1, at 0.6, and by the detector."""
    recognizer = engine.recognizer
    photo = recognizer.decode(path.read_bytes())
    middle = np.array([photo.width, photo.height])
    face = min(recognizer.detect(photo), key=lambda f: float(np.abs(f.box[:2] + f.box[2:] - middle).sum()))
    scale = width / float(face.box[2] - face.box[0])
    small = cv2.resize(photo.pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    background = recognizer.decode(resources.files("skimage").joinpath("data/coffee.png").read_bytes())
    canvas = cv2.resize(background.pixels, (CANVAS, CANVAS))
    x, y = rng.integers(100, CANVAS - 100 - max(small.shape), 2)
    canvas[y : y + small.shape[0], x : x + small.shape[1]] = small
    true = face.box * scale + np.array([x, y, x, y])
    [proposals] = propose(recognizer.detector, canvas[None], 0.1)
    clear = proposals.take(proposals.scores >= 0.6)
    detected = [f.box for f in recognizer.detect(Image(canvas))]
    return tuple(any(overlap(box, true) > 0.4 for box in boxes) for boxes in (proposals.boxes, clear.boxes, detected))  # type: ignore[return-value]


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union."""
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    shared = float(np.prod(sides))
    return shared / (float(np.prod(a[2:] - a[:2])) + float(np.prod(b[2:] - b[:2])) - shared)


if __name__ == "__main__":
    main()
