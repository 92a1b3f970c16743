"""Enrol the photo database of DeepFace.

    python examples/migrate_deepface.py staff my_db/

Assumed: the folder that is given to ``DeepFace.find`` or ``DeepFace.stream`` as ``db_path``. DeepFace reads all .jpg,
.jpeg and .png files in it, however deep, and says who it is by the file's path; whose photos they are is in the names:

    my_db/alice/1.jpg, my_db/alice/2019/2.png      photos of alice: the first folder says who it is
    my_db/bob.jpg                                  a photo of bob: beside the folders, the file says it

The ``ds_*.pkl`` files beside them hold embeddings of DeepFace's networks and are left alone. Photos that show several
people, each of whom DeepFace would answer with, are rejected; with --faces largest they stand for the largest face.

The service is at LIKENESS_URL, its access key (scopes enrol and admin) in LIKENESS_API_KEY.
"""

import sys
from pathlib import Path

from migrating import arguments, enrol

from likeness import LikenessError, PersonFolder, person_id_of

ENDINGS = (".jpg", ".jpeg", ".png")


def persons_of(database: Path) -> list[PersonFolder]:
    """Everybody in a database."""
    photos: dict[str, list[Path]] = {}
    for path in sorted(database.rglob("*")):
        if path.is_file() and path.name.lower().endswith(ENDINGS):
            first = path.relative_to(database).parts[0]
            photos.setdefault(path.stem if first == path.name else first, []).append(path)
    return [PersonFolder(person_id_of(name), name, tuple(paths)) for name, paths in photos.items()]


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("database", type=Path, metavar="DB_PATH")
    args = parser.parse_args()
    persons = persons_of(args.database)
    if not persons:
        print(f"There is no photo in {args.database}.", file=sys.stderr)
        return 2
    try:
        return enrol(args, persons)
    except (LikenessError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
