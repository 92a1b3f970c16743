"""Who is in front of the camera? Frames of a camera or a video file are searched in a gallery.

    python examples/watch_camera.py staff --camera 0
    python examples/watch_camera.py staff --file visit.avi --every 1

Prints a line whenever somebody comes or goes; somebody unknown is told as such. A frame for which the service is too
busy, or too slow to be of use, is left out: the next one is as good.

Needs OpenCV beside the client. The service is at LIKENESS_URL, its access key (scope search) in LIKENESS_API_KEY.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2

from likeness import NO_RETRIES, Busy, Client, LikenessError, TimedOut

# Later than this an answer is about somebody who has walked on.
PATIENCE_S = 2.0


def frames_of(source: int | str, every_s: float) -> Iterator[tuple[float, bytes]]:
    """Seconds since the start, and a frame as JPEG; of a file each ``every_s`` of its own time."""
    capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        raise OSError(f"{source} cannot be opened as a video.")
    rate = (isinstance(source, str) and capture.get(cv2.CAP_PROP_FPS)) or 0.0
    started, next_at, number = time.monotonic(), 0.0, 0
    try:
        while capture.grab():
            now = number / rate if rate else time.monotonic() - started
            number += 1
            if now < next_at:
                continue
            next_at = now + every_s
            read, pixels = capture.retrieve()
            if read:
                yield now, cv2.imencode(".jpg", pixels)[1].tobytes()
    finally:
        capture.release()


def seen_in(client: Client, gallery: str, frame: bytes, fpir: float | None) -> set[str] | None:
    """The names of those in a frame; None where the service did not say."""
    try:
        probes = client.search(gallery, frame, faces="all", fpir=fpir).probes
    except (Busy, TimedOut) as error:
        print(f"a frame was left out: {error.message}", file=sys.stderr)
        return None
    found = [probe.identified for probe in probes]
    return {who.name or who.person_id if who else "somebody unknown" for who in found}


def watch(args: argparse.Namespace) -> None:
    source = args.camera if args.file is None else str(args.file)
    there: set[str] = set()
    with Client(timeout_s=PATIENCE_S, retries=NO_RETRIES) as client:
        client.gallery(args.gallery)
        for seconds, frame in frames_of(source, args.every):
            seen = seen_in(client, args.gallery, frame, args.fpir)
            if seen is None:
                continue
            for what, names in (("+", seen - there), ("-", there - seen)):
                for name in sorted(names):
                    print(f"{seconds:8.1f} s  {what} {name}", flush=True)
            there = seen


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("gallery", metavar="GALLERY")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--camera", type=int, default=0, metavar="N", help="number of the camera (default: 0)")
    source.add_argument("--file", type=Path, metavar="VIDEO", help="a video file in place of a camera")
    parser.add_argument("--every", type=float, default=0.5, metavar="SECONDS", help="between two frames (default: 0.5)")
    parser.add_argument("--fpir", type=float, help="how often a stranger may be identified (default: the service's)")
    args = parser.parse_args()
    try:
        watch(args)
    except (LikenessError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
