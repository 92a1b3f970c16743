"""A folder of photos, one sub-folder a person, and the ids that persons and faces get from it."""

import hashlib
import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# An id made by ``_labelled``.
_MADE = re.compile(r".*:[0-9a-f]{32}")


@dataclass(frozen=True)
class PersonFolder:
    """A sub-folder: the person's id and name, and the photos in the order of their names."""

    id: str
    name: str
    photos: tuple[Path, ...]


def persons_of(folder: Path) -> list[PersonFolder]:
    """The sub-folders with photos in them, in the order of their names; hidden ones are left out.

    Raises:
        OSError: it cannot be read.
        ValueError: there is no photo.
    """
    folders = sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))
    found = [
        PersonFolder(person_id_of(f.name), os.fsencode(f.name).decode(errors="replace"), _photos(f)) for f in folders
    ]
    persons = [person for person in found if person.photos]
    if not persons:
        raise ValueError(f"{folder} has no photos: put those of each person into a sub-folder, {folder}/NAME/1.jpg.")
    return persons


def person_id_of(name: str) -> str:
    """The id of the person whose folder has this name: the name, if it can be an id.

    Else what is left of the name as plain letters, a colon, and 32 hexadecimal digits of the sha256 of the name. A
    name that looks like such an id gets a digest too, so that no two names have one id.
    """
    if _ID.fullmatch(name) and not _MADE.fullmatch(name):
        return name
    return _labelled(name, os.fsencode(name))


def face_id_of(person: str, path: Path, content: bytes) -> str:
    """What is left of the file's name as plain letters, a colon, and 32 digits of the sha256 of person and photo."""
    return _labelled(path.name, f"{person}/".encode() + content)


def digest_of(face_id: str) -> str:
    """The part of an id from ``face_id_of`` that tells person and photo, whatever the file is called."""
    return face_id.rpartition(":")[2]


def _labelled(name: str, content: bytes) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    label = re.sub(r"[^A-Za-z0-9.-]+", "_", plain)[:90]
    return f"{label}:{hashlib.sha256(content).hexdigest()[:32]}"


def _photos(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(p for p in folder.iterdir() if p.name.lower().endswith(ENDINGS) and p.name[0] != "."))
