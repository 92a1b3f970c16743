"""Enrol the subjects of a CompreFace face collection, from a running CompreFace or from saved images.

    python examples/migrate_compreface.py staff --from http://compreface:8000 --saved images/
    python examples/migrate_compreface.py staff --folder images/

Assumed of a running one, 0.6 or newer: ``GET /api/v1/recognition/faces?page=&size=`` lists the image id and subject of
every saved example, ``GET /api/v1/recognition/faces/{image_id}/img`` gives the image, and both take the key of the
recognition service (one key, one collection) as ``x-api-key``; it is read from COMPREFACE_API_KEY. The images are there
only if it ran with ``save_images_to_db=true``. They are kept in --saved, and not downloaded again.

Assumed of a folder: one sub-folder a subject, named after it, with its images.

A subject becomes a person with that name. CompreFace also keeps .gif, .ico and .tif images; these are rejected.

The service is at LIKENESS_URL, its access key (scopes enrol and admin) in LIKENESS_API_KEY.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
from migrating import arguments, enrol, keep

from likeness import LikenessError, PersonFolder, person_id_of
from likeness.folders import persons_of

PAGE = 100
FACES = "/api/v1/recognition/faces"


def examples_of(peer: httpx.Client) -> Iterator[tuple[str, str]]:
    """Subject and image id of every saved example."""
    page, pages = 0, 1
    while page < pages:
        answer = peer.get(FACES, params={"page": page, "size": PAGE})
        answer.raise_for_status()
        told = answer.json()
        yield from ((face["subject"], face["image_id"]) for face in told["faces"])
        page, pages = page + 1, told["total_pages"]


def download(peer: httpx.Client, saved: Path) -> list[PersonFolder]:
    """All subjects, with their images in a folder each."""
    photos: dict[str, list[Path]] = {}
    for subject, image in examples_of(peer):
        # A subject may be called "..", and that is no folder of its own.
        folder = saved / (person_id_of(subject) if subject.strip(".") else "dots")
        path = folder / f"{person_id_of(image)}.jpg"
        if not path.exists():
            answer = peer.get(f"{FACES}/{image}/img")
            answer.raise_for_status()
            if not answer.content:
                print(f"{subject}: CompreFace has not kept the image {image}.", file=sys.stderr)
                continue
            keep(path, answer.content)
        photos.setdefault(subject, []).append(path)
    return [PersonFolder(person_id_of(subject), subject, tuple(paths)) for subject, paths in photos.items()]


def main() -> int:
    parser = arguments(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--from", dest="peer", metavar="URL", help="a running CompreFace")
    source.add_argument("--folder", type=Path, help="saved images, one sub-folder a subject")
    parser.add_argument("--saved", type=Path, default=Path("compreface"), help="where downloaded images are kept")
    args = parser.parse_args()
    try:
        if args.folder is not None:
            return enrol(args, persons_of(args.folder))
        key = os.environ.get("COMPREFACE_API_KEY", "")
        with httpx.Client(base_url=args.peer, headers={"x-api-key": key}, timeout=60) as peer:
            persons = download(peer, args.saved)
        if not persons:
            print(f"{args.peer} has no images.", file=sys.stderr)
            return 2
        return enrol(args, persons)
    except (LikenessError, httpx.HTTPError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
