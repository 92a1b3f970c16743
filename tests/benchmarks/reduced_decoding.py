"""What decoding large JPEGs in a coarser level saves, and what it changes: faces found, embeddings, processor time.

    python -m tests.benchmarks.reduced_decoding --images LFW/images [--data-dir data] [--canvases 2]

Faces of LFW are brought to one width and laid, six at a time, on a photo of 12 megapixels without faces, which is
encoded as a JPEG. It is worked on whole, and as the service does where the smallest usable face is set larger: faces
found, cosines to the photo that they were cut from, milliseconds of processor, share of photos decoded again.
"""

import argparse
import io
import time
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from service.engine import Engine, load_engine
from service.recognition.recognizer import Recognizer
from service.settings import read_settings
from tests.benchmarks.detection_sizes import overlap

# The smallest usable face, and how wide the faces in the photo are.
WAYS = ((56, (56, 64, 80, 120, 200, 400)), (112, (112, 160, 250, 400)))
SIZE = (4032, 3024)
PLACES = [(x, y) for y in (760, 2270) for x in (670, 2010, 3350)]


@dataclass(frozen=True)
class Laid:
    """Where a face was put, and its embedding in the photo that it was cut from."""

    box: NDArray[np.float32]
    embedding: NDArray[np.float32]


@dataclass(frozen=True)
class Seen:
    """One photo, worked on in one way: cosines of its faces to where they were cut from, nan where not found."""

    cosines: list[float]
    decode_ms: float
    detect_ms: float
    whole: bool


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--images", type=Path, required=True)
    arguments.add_argument("--data-dir", type=Path)
    arguments.add_argument("--canvases", type=int, default=2)
    args = arguments.parse_args()
    engine = load_engine(read_settings(data_dir=args.data_dir))
    paths = sorted(args.images.glob("*/*_0001.jpg"))
    print(
        f"{'smallest':>8}{'width':>7} | {'whole: found':>13}{'cosine':>8}{'lowest':>8}{'decode':>8}{'detect':>8} | "
        f"{'reduced: found':>15}{'cosine':>8}{'lowest':>8}{'decode':>8}{'detect':>8}{'whole':>8}"
    )
    for smallest, widths in WAYS:
        ways = [with_smallest(engine, size) for size in (engine.recognizer.options.min_face_size, smallest)]
        for width in widths:
            rng = np.random.default_rng(1)
            seen: tuple[list[Seen], list[Seen]] = ([], [])
            for _ in range(args.canvases):
                chosen = [paths[i] for i in rng.choice(len(paths), len(PLACES), replace=False)]
                content, laid = canvas(ways[0], chosen, width, rng)
                for way, found in zip(ways, seen, strict=True):
                    found.append(see(way, content, laid))
            print(f"{smallest:8}{width:7} | {row(seen[0])} | {row(seen[1])}{share(seen[1])}", flush=True)


def with_smallest(engine: Engine, size: float) -> Recognizer:
    served, alignment = engine.recognizer, engine.card.contract.alignment
    options = replace(served.options, min_face_size=size)
    return Recognizer(served.detector, served.embedder, alignment.template, alignment.size, options)


def row(seen: list[Seen]) -> str:
    cosines = [c for s in seen for c in s.cosines]
    found = 100 * len([c for c in cosines if not np.isnan(c)]) / len(cosines)
    times = [float(np.mean([getattr(s, name) for s in seen])) for name in ("decode_ms", "detect_ms")]
    return f"{found:13.0f} %{np.nanmedian(cosines):7.3f}{np.nanmin(cosines):8.3f}{times[0]:8.0f}{times[1]:8.0f}"


def share(seen: list[Seen]) -> str:
    return f"{100 * np.mean([s.whole for s in seen]):6.0f} %"


def canvas(
    recognizer: Recognizer, paths: list[Path], width: float, rng: np.random.Generator
) -> tuple[bytes, list[Laid]]:
    """A JPEG with the central face of each photo, so wide; and where they are."""
    cup = recognizer.decode(resources.files("skimage").joinpath("data/coffee.png").read_bytes())
    pixels = cv2.resize(cup.pixels, SIZE, interpolation=cv2.INTER_CUBIC)
    laid = []
    for path, place in zip(paths, PLACES, strict=True):
        photo = recognizer.decode(path.read_bytes())
        middle = np.array([photo.width, photo.height])
        face = min(recognizer.detect(photo), key=lambda f: float(np.abs(f.box[:2] + f.box[2:] - middle).sum()))
        scale = width / float(face.box[2] - face.box[0])
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        centre, reach = (face.box[:2] + face.box[2:]) / 2, 0.8 * (face.box[2:] - face.box[:2])
        x1, y1 = np.maximum(centre - reach, 0).astype(int)
        x2, y2 = np.minimum(centre + reach, middle).astype(int)
        cut = cv2.resize(photo.pixels[y1:y2, x1:x2], None, fx=scale, fy=scale, interpolation=how)
        corner = np.array(place) - np.array(cut.shape[1::-1]) // 2 + rng.integers(-8, 8, 2)
        x, y = (int(c) for c in corner)
        pixels[y : y + cut.shape[0], x : x + cut.shape[1]] = cut
        [embedded] = recognizer.embed([(photo, face)])
        box = (face.box - np.array([x1, y1, x1, y1])) * scale + np.array([x, y, x, y])
        laid.append(Laid(box, embedded.embedding))
    # As a sensor does.
    noisy = pixels + rng.normal(0, 3, (*pixels.shape[:2], 1)).astype(np.float32)
    encoded = io.BytesIO()
    PillowImage.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(encoded, "JPEG", quality=92)
    return encoded.getvalue(), laid


def see(recognizer: Recognizer, content: bytes, laid: list[Laid]) -> Seen:
    start = time.thread_time()
    photo = recognizer.decode(content)
    decoded = time.thread_time()
    faces = recognizer.detect(photo)
    detected = time.thread_time()
    embedded = recognizer.embed([(photo, face) for face in faces])
    cosines = []
    for one in laid:
        mine = [float(e.embedding @ one.embedding) for e in embedded if overlap(e.face.box, one.box) > 0.4]
        cosines.append(max(mine, default=np.nan))
    return Seen(cosines, 1000 * (decoded - start), 1000 * (detected - decoded), photo.finest == 0)


if __name__ == "__main__":
    main()
