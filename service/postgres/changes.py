"""The list of changes that replicas follow. Functions of an open transaction.

A gallery's list is kept for its last ``KEPT`` changes of faces; who has missed more compares all faces instead.
"""

import random
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection, delete, func, select, text, update

from service.gallery.records import GalleryRecord
from service.gallery.tables import galleries
from service.gallery.vectors import Keys
from service.postgres.vector_tables import changes, searched

# Rows that a gallery keeps; the list may grow by as many again before it is cut.
KEPT = 16_384
# The list is looked at after one change in so many, by chance (revisions of changes of faces may all be odd, as
# persons are made in between), and after a change of so many faces.
CUT_EVERY, MANY = 256, 512


@dataclass(frozen=True, eq=False)
class Changes:
    """What happened to a gallery up to ``revision``.

    Attributes:
        added: int64 (n,), the keys of faces that were added and are still there.
        removed: int64 (m,), of those that are gone, whether they were there before or not.
    """

    revision: int
    added: Keys
    removed: Keys


_RECORD = text(
    "INSERT INTO changes (gallery_key, revision, face_key, added) "
    "SELECT :gallery, :revision, unnest(CAST(:faces AS bigint[])), :added"
)


def record(connection: Connection, gallery: GalleryRecord, faces: Keys, added: bool) -> None:
    """Faces came or went with the gallery's present revision."""
    values = {"gallery": gallery.key, "revision": gallery.revision, "faces": faces.tolist(), "added": added}
    connection.execute(_RECORD, values)
    if random.randrange(CUT_EVERY) == 0 or len(faces) >= MANY:
        _cut(connection, gallery.key)


def since(connection: Connection, gallery_key: int, revision: int) -> Changes | None:
    """What happened after ``revision``; None where it was too much, or the gallery is not there.

    All of it is of one moment if the transaction is REPEATABLE READ.
    """
    here = galleries.c.key == gallery_key
    joined = select(galleries.c.revision, searched.c.forgotten).join(
        searched, searched.c.gallery_key == galleries.c.key
    )
    now = connection.execute(joined.where(here, galleries.c.id.is_not(None))).one_or_none()
    if now is None or now.forgotten > revision:
        return None
    later = (changes.c.gallery_key == gallery_key, changes.c.revision > revision)
    query = select(changes.c.face_key, changes.c.added).where(*later).order_by(changes.c.revision)
    rows = [(row[0], row[1]) for row in connection.execute(query.limit(2 * KEPT + 1))]
    if len(rows) > 2 * KEPT:
        return None
    last = dict(rows)
    added = [key for key, there in last.items() if there]
    removed = [key for key, there in last.items() if not there]
    return Changes(int(now.revision), np.array(added, np.int64), np.array(removed, np.int64))


def _cut(connection: Connection, gallery_key: int) -> None:
    here = changes.c.gallery_key == gallery_key
    last = select(changes.c.revision).where(here).order_by(changes.c.revision.desc()).offset(KEPT).limit(1)
    revision = connection.execute(last).scalar_one_or_none()
    if revision is None:
        return
    connection.execute(delete(changes).where(here, changes.c.revision <= revision))
    forgotten = func.greatest(searched.c.forgotten, revision)
    connection.execute(update(searched).where(searched.c.gallery_key == gallery_key).values(forgotten=forgotten))
