"""Enrol the photos that were sent to InsightFace-REST.

    python examples/migrate_insightface_rest.py staff people.csv --images images/

InsightFace-REST keeps nothing: it turns photos into vectors, and whose they are stands in an index or a table of your
own. Assumed is that table, as CSV with the columns ``person`` and ``image``, where an image is what was sent as one of
``images.urls``: an address (http, https), or a path below the folder that the container has as its root of images
(``--images``). Photos that were sent as base64 in ``images.data`` have to be saved as files first.

    person,image
    Alice,alice/1.jpg
    Bob,https://photos.example/bob.png

The vectors are not taken over: they are of other networks, cut out in another way. GIFs, of which InsightFace-REST
takes the first frame, are rejected. Photos at an address are downloaded into --saved, once.

The service is at LIKENESS_URL, its access key (scopes enrol and admin) in LIKENESS_API_KEY.
"""

import csv
import hashlib
import sys
from pathlib import Path

import httpx
from migrating import arguments, enrol, keep

from likeness import LikenessError, PersonFolder, person_id_of


def persons_of(table: Path, images: Path, saved: Path) -> list[PersonFolder]:
    """Everybody in a table, with the files of their photos."""
    photos: dict[str, list[Path]] = {}
    with table.open(newline="", encoding="utf-8-sig") as file, httpx.Client(follow_redirects=True) as web:
        for row in csv.DictReader(file):
            image = row["image"]
            path = downloaded(web, image, saved) if image.startswith(("http://", "https://")) else images / image
            photos.setdefault(row["person"], []).append(path)
    return [PersonFolder(person_id_of(name), name, tuple(paths)) for name, paths in photos.items()]


def downloaded(web: httpx.Client, address: str, saved: Path) -> Path:
    """The file in which a photo from the net is kept."""
    path = saved / f"{hashlib.sha256(address.encode()).hexdigest()[:32]}{Path(httpx.URL(address).path).suffix}"
    if not path.exists():
        answer = web.get(address)
        answer.raise_for_status()
        keep(path, answer.content)
    return path


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("table", type=Path, metavar="TABLE.csv")
    parser.add_argument("--images", type=Path, default=Path(), help="root of the images with a path (default: here)")
    parser.add_argument("--saved", type=Path, default=Path("downloaded"), help="where photos from the net are kept")
    args = parser.parse_args()
    try:
        return enrol(args, persons_of(args.table, args.images, args.saved))
    except KeyError as error:
        print(f"{args.table} has no column {error}; person and image are needed.", file=sys.stderr)
    except (LikenessError, httpx.HTTPError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
