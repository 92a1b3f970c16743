"""``likeness verify`` and ``likeness detect``: on this machine, without a server."""

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from service.api.schemas import FaceOut, VerifyAnswer
from service.cli.options import settings_of
from service.engine import Engine, FoundFace, compare_subjects, load_engine
from service.errors import InvalidImage, InvalidRequest
from service.recognition.types import Image


def add_commands(commands: Any, local: argparse.ArgumentParser) -> None:
    """Register the sub-commands."""
    verify = commands.add_parser("verify", parents=[local], help="do two photos show one person?")
    verify.add_argument("a", type=Path, metavar="A")
    verify.add_argument("b", type=Path, metavar="B")
    verify.add_argument("--faces", choices=["single", "largest"], default="single")
    point = verify.add_mutually_exclusive_group()
    point.add_argument("--fmr", type=float, help="false match rate (default: 1e-4)")
    point.add_argument("--threshold", type=float, help="raw cosine")
    verify.add_argument("--extrapolate", action="store_true", help="below the calibration's rates, by a fitted tail")
    verify.set_defaults(run=run_verify)

    detect = commands.add_parser("detect", parents=[local], help="find the faces of a photo")
    detect.add_argument("photo", type=Path, metavar="PHOTO")
    detect.add_argument("--draw", type=Path, metavar="OUT", help="write the photo with boxes and landmarks drawn")
    detect.set_defaults(run=run_detect)


def run_verify(args: argparse.Namespace) -> int:
    """0 for a match, 1 for none."""
    engine = _engine(args)
    point = engine.thresholds.choose(args.fmr, args.threshold, args.extrapolate)
    a, b = (engine.subject(read_photo(path), args.faces, str(path)) for path in (args.a, args.b))
    comparison = compare_subjects(a, b, point)
    if args.json:
        print(VerifyAnswer.verified(comparison, a, b).model_dump_json())
    else:
        verdict = "the same person" if comparison.match else "not the same person"
        rate = f"false match rate {point.fmr:.3g}" if point.fmr else "no error rate known"
        print(f"{verdict}: similarity {comparison.similarity:.4f}, threshold {point.threshold:.4f} ({rate})")
    return 0 if comparison.match else 1


def run_detect(args: argparse.Namespace) -> int:
    """List the faces, largest first; draw them if asked."""
    image, faces = _engine(args).detect(read_photo(args.photo))
    if args.draw:
        _write(args.draw, draw(image, faces))
    if args.json:
        size = {"width": image.width, "height": image.height}
        print(json.dumps({"image": size, "faces": [_face(face) for face in faces]}))
        return 0
    print(f"{len(faces)} face{'' if len(faces) == 1 else 's'} in {image.width} × {image.height} pixels")
    for found in faces:
        x1, y1, x2, y2 = found.face.box
        print(
            f"  {x2 - x1:.0f} × {y2 - y1:.0f} at ({x1:.0f}, {y1:.0f}), score {found.face.score:.2f}, "
            f"{found.quality.inter_eye_distance:.0f} px between the eyes, sharpness {found.quality.sharpness:.1f}"
        )
    return 0


def draw(image: Image, faces: list[FoundFace]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The photo with each face's box, score and landmarks; uint8 (H, W, 3) RGB."""
    canvas = image.pixels.copy()
    line = max(1, round(max(image.width, image.height) / 500))
    for found in faces:
        x1, y1, x2, y2 = (round(float(v)) for v in found.face.box)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), (0, 220, 120), line, cv2.LINE_AA)
        place = (x1, max(y1 - 3 * line, 12 * line))
        text = f"{found.face.score:.2f}"
        cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45 * line, (0, 220, 120), line, cv2.LINE_AA)
        # The viewer's left side in orange, the right in blue: a mirrored photo shows at once.
        colours = [(255, 140, 0), (40, 120, 255), (255, 255, 255), (255, 140, 0), (40, 120, 255)]
        for (x, y), colour in zip(found.face.landmarks, colours, strict=True):
            cv2.circle(canvas, (round(float(x)), round(float(y))), 2 * line, colour, -1, cv2.LINE_AA)
    return canvas


def _engine(args: argparse.Namespace) -> Engine:
    settings = settings_of(args)
    return load_engine(settings)


def read_photo(path: Path) -> bytes:
    """The bytes of an encoded photo. Raises InvalidImage."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidImage(f"{path} cannot be read: {error.strerror}") from error


def _write(path: Path, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    try:
        written, encoded = cv2.imencode(path.suffix or ".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    except cv2.error:
        written = False
    if not written:
        raise InvalidRequest(f"{path}: the ending {path.suffix!r} is no known image format; use .png or .jpg.")
    try:
        path.write_bytes(encoded.tobytes())
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be written: {error.strerror}") from error


def _face(found: FoundFace) -> dict[str, Any]:
    return FaceOut.of(found).model_dump(mode="json")
