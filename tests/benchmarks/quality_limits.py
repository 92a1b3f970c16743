"""Which measure of a photo's quality foretells errors: LFW, and copies of it made worse in known ways.

The first photo of a person stays as it is, the second is made worse, embedded through the recognizer that serves, and
compared with the first one (genuine) and with those of all others (impostor) at the threshold of FMR 1e-4. Printed:
what each way of making it worse does to the measures and to both error rates; then, over all copies together, the FNMR
when the worst 5, 10, 20 and 40 % by each measure are discarded (error versus discard: Grother, Tabassi, "Performance
of biometric quality measures", IEEE TPAMI 29(4), 2007).
"""

import argparse
import io
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from service.cli.evaluate import model_facts
from service.decision.quality_policy import QualityPolicy, reasons
from service.engine import Engine, load_engine
from service.errors import UnusableInput
from service.evaluation.photos import central_face
from service.progress import track
from service.recognition.quality import Quality, measure
from service.recognition.types import Face, Image
from service.settings import Settings
from tests.benchmarks.lfw_embedded import arguments, embedded

Pixels = NDArray[np.uint8]
DISCARDED = (0.0, 0.05, 0.1, 0.2, 0.4)


def blurred(sigma: float) -> Callable[[Pixels], Pixels]:
    return lambda photo: np.asarray(cv2.GaussianBlur(photo, (0, 0), sigma), np.uint8)


def noisy(sigma: float) -> Callable[[Pixels], Pixels]:
    rng = np.random.default_rng(1)
    return lambda photo: np.clip(photo + rng.normal(0, sigma, photo.shape), 0, 255).astype(np.uint8)


def jpeg(quality: int) -> Callable[[Pixels], Pixels]:
    def encode(photo: Pixels) -> Pixels:
        buffer = io.BytesIO()
        Pillow.fromarray(photo).save(buffer, "jpeg", quality=quality)
        return np.asarray(Pillow.open(buffer), np.uint8)

    return encode


def exposed(gain: float) -> Callable[[Pixels], Pixels]:
    return lambda photo: np.clip(photo * gain, 0, 255).astype(np.uint8)


def small(factor: int) -> Callable[[Pixels], Pixels]:
    def shrink(photo: Pixels) -> Pixels:
        size = (photo.shape[1] // factor, photo.shape[0] // factor)
        return np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA), np.uint8)

    return shrink


def covered(top: float, bottom: float) -> Callable[[Pixels], Pixels]:
    """A grey bar over the middle of the photo, where the face is; heights as shares of the photo."""

    def cover(photo: Pixels) -> Pixels:
        height, width = photo.shape[:2]
        copy = photo.copy()
        copy[int(top * height) : int(bottom * height), width // 4 : 3 * width // 4] = 128
        return copy

    return cover


WAYS: dict[str, Callable[[Pixels], Pixels]] = {
    "as it is": lambda photo: photo,
    "blur 2 px": blurred(2),
    "blur 4 px": blurred(4),
    "noise 25": noisy(25),
    "noise 60": noisy(60),
    "JPEG 10": jpeg(10),
    "JPEG 4": jpeg(4),
    "dark × 0.2": exposed(0.2),
    "dark × 0.05": exposed(0.05),
    "bright × 2.5": exposed(2.5),
    "size / 3": small(3),
    "size / 5": small(5),
    "mouth covered": covered(0.57, 0.75),
    "eyes covered": covered(0.38, 0.50),
}


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--persons", type=int, default=150)
    args = parser.parse_args()
    engine = load_engine(Settings(data_dir=args.data_dir, bundle=args.bundle))
    threshold = engine.thresholds.choose(fmr=1e-4).threshold
    folders = sorted(path for path in args.images.iterdir() if len(list(path.glob("*.jpg"))) > 1)
    chosen = [folders[i] for i in np.random.default_rng(args.seed).choice(len(folders), args.persons, replace=False)]
    photos = [sorted(folder.glob("*.jpg"))[:2] for folder in chosen]
    mates = [_subject(engine, engine.recognizer.decode(first.read_bytes())) for first, _ in photos]
    gallery = np.stack([mate[1] for mate in mates if mate is not None])
    kept = [photo for photo, mate in zip(photos, mates, strict=True) if mate is not None]
    print(f"{model_facts(engine)['bundle']}: {len(kept)} persons, threshold {threshold:.4f}\n")
    names = [name for name in Quality.__dataclass_fields__ if name != "roll_degrees"]
    print(f"| made worse | no face | FNMR | FMR | rejected: enrol, probe | {' | '.join(names)} |")
    print("| --- |" + " --- |" * (len(names) + 4))
    table: list[tuple[bool, Quality]] = []
    for way, worse in WAYS.items():
        found = []
        for k, (_, second) in enumerate(track(kept, way, len(kept), "photo")):
            probe = engine.recognizer.decode(second.read_bytes())
            subject = _subject(engine, Image(worse(probe.pixels)))
            if subject is not None:
                scores = gallery @ subject[1]
                others = np.delete(scores, k)
                found.append((scores[k] < threshold, (others >= threshold).mean(), subject[0]))
        table += [(missed, quality) for missed, _, quality in found]
        _print_way(engine, way, len(kept), found, names)
    _print_discards(table, names)
    if args.cache:
        _print_lfw(args, threshold)


def _subject(engine: Engine, image: Image) -> tuple[Quality, NDArray[np.float32]] | None:
    try:
        face: Face = central_face(engine.recognizer.detect(image), image.width, image.height)
    except UnusableInput:
        return None
    [embedded] = engine.recognizer.embed([(image, face)])
    return measure(face, embedded.crop, embedded.feature_norm), embedded.embedding


def _print_way(
    engine: Engine, way: str, asked: int, found: list[tuple[bool, float, Quality]], names: list[str]
) -> None:
    if not found:
        print(f"| {way} | {asked} of {asked} |")
        return
    missed, false, qualities = zip(*found, strict=True)
    judged: tuple[QualityPolicy, ...] = ("enrol", "probe")
    refused = [
        np.mean([bool(reasons(quality.details(), policy, engine.card.calibration)) for quality in qualities])
        for policy in judged
    ]
    medians = [np.median([abs(getattr(quality, name)) for quality in qualities]) for name in names]
    print(
        f"| {way} | {asked - len(found)} | {100 * np.mean(missed):.1f} % | {np.mean(false):.1e} | "
        f"{100 * refused[0]:.0f} %, {100 * refused[1]:.0f} % | " + " | ".join(f"{m:.3g}" for m in medians) + " |"
    )


def _print_lfw(args: argparse.Namespace, threshold: float) -> None:
    """LFW as it is, from the cache: FNMR, all persons alike, when pairs with the shortest features are discarded."""
    lfw = embedded(args)
    shortest, missed, weights = [], [], []
    for person in np.unique(lfw.persons):
        rows = np.flatnonzero(lfw.persons == person)
        a, b = np.triu_indices(len(rows), 1)
        scores = (lfw.embeddings[rows] @ lfw.embeddings[rows].T)[a, b]
        shortest.append(np.minimum(lfw.feature_norms[rows[a]], lfw.feature_norms[rows[b]]))
        missed.append(scores < threshold)
        weights.append(np.full(len(a), 1 / max(len(a), 1)))
    norms, wrong, shares = (np.concatenate(part) for part in (shortest, missed, weights))
    order = np.argsort(norms, kind="stable")
    below = np.cumsum(shares[order]) / shares.sum()
    cells = []
    for discarded in DISCARDED:
        kept = order[below >= discarded]
        cells.append(f"{100 * (shares * wrong)[kept].sum() / shares[kept].sum():.2f} %")
    print(f"\nLFW as it is, {len(norms):,} pairs, by feature_norm: {' | '.join(cells)}")


def _print_discards(table: list[tuple[bool, Quality]], names: list[str]) -> None:
    print(f"\n| FNMR with the worst discarded, {len(table):,} copies | " + " | ".join(f"{d:.0%}" for d in DISCARDED))
    print("| --- |" + " --- |" * len(DISCARDED))
    missed = np.array([one for one, _ in table])
    for name in names:
        values = np.array([getattr(quality, name) for _, quality in table])
        if name in ("yaw_degrees", "pitch_degrees", "clipped"):
            values = -np.abs(values)
        if name == "brightness":
            values = -np.abs(values - 0.45)
        order = np.argsort(values, kind="stable")
        rates = [missed[order[int(d * len(order)) :]].mean() for d in DISCARDED]
        print(f"| {name} | " + " | ".join(f"{100 * rate:.1f} %" for rate in rates) + " |")


if __name__ == "__main__":
    main()
