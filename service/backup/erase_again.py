"""Deletions that an audit log tells of, done again on a store that was restored to before them."""

from collections.abc import Iterable
from datetime import datetime

from service.errors import FaceIdNotFound, GalleryNotFound, PersonNotFound
from service.gallery.store import Store
from service.gallery.store_values import MAX_PAGE
from service.security.erasures import Erasure


def erase_again(store: Store, erasures: Iterable[Erasure]) -> int:
    """Delete what is there of it; how many galleries, persons and faces that were.

    What was made after its deletion, under the same id, is somebody else's and stays.
    """
    return sum(_again(store, erasure) for erasure in erasures)


def _again(store: Store, erasure: Erasure) -> bool:
    gallery, person, face = erasure.gallery, erasure.person, erasure.face
    try:
        if person is None:
            return _older(store.gallery(gallery).created_at, erasure) and bool(store.delete_gallery(gallery))
        if face is None:
            if not _older(store.person(gallery, person).created_at, erasure):
                return False
            store.delete_person(gallery, person)
            return True
        made = _made(store, gallery, person, face)
        if made is None or not _older(made, erasure):
            return False
        store.delete_face(gallery, person, face)
    except (GalleryNotFound, PersonNotFound, FaceIdNotFound):
        return False
    return True


def _older(made: datetime, erasure: Erasure) -> bool:
    return made <= erasure.at


def _made(store: Store, gallery: str, person: str, face: str) -> datetime | None:
    """When a face was enrolled."""
    cursor: str | None = None
    while True:
        page = store.faces(gallery, person, cursor, MAX_PAGE)
        for record in page.items:
            if record.id == face:
                return record.created_at
        if page.cursor is None:
            return None
        cursor = page.cursor
