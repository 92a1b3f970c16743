"""Galleries in the database. Functions of an open transaction; ``service.gallery.store`` gives them out."""

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, and_, bindparam, delete, insert, select, update

from service.errors import GalleryNotFound, InvalidRequest, ModelMismatch
from service.gallery.database import WRITES
from service.gallery.dialects import make_alone
from service.gallery.records import GalleryRecord, Page
from service.gallery.spaces import Space
from service.gallery.store_values import (
    MAX_DIMENSION,
    MAX_RETENTION_DAYS,
    checked_id,
    checked_limit,
    checked_text,
    now,
    page_after,
    page_of,
)
from service.gallery.tables import enrolments, faces, galleries, persons, templates_table
from service.security.person_keys import OpenKeys

# Faces or persons that one step of a gallery's deletion takes: what it writes to the WAL must fit the reserve.
STEP = 256


def put(
    connection: Connection, id: str, shown: Mapping[str, Any], contract: str, dimension: int
) -> tuple[GalleryRecord, bool]:
    """See ``Store.put_gallery``; ``shown`` are name, description and retention_days."""
    for field in ("name", "description"):
        checked_text(field, shown[field])
    days = shown["retention_days"]
    if days is not None and not 1 <= days <= MAX_RETENTION_DAYS:
        raise InvalidRequest(f"retention_days must be 1 to {MAX_RETENTION_DAYS}, not {days}.")
    if not 1 <= dimension <= MAX_DIMENSION:
        raise InvalidRequest(f"The dimension must be 1 to {MAX_DIMENSION}, not {dimension}.")
    row = _row(connection, id)
    if row is None:
        make_alone(connection)
        row = _row(connection, id)
    if row is None:
        templates_table(dimension).create(connection, checkfirst=True)
        new = {"id": id, "embedding_contract": contract, "dimension": dimension, "created_at": now(), **shown}
        connection.execute(insert(galleries).values(revision=0, persons=0, faces=0, **new))
        return get(connection, id), True
    if (row.embedding_contract, row.dimension) != (contract, dimension):
        raise ModelMismatch(
            f"The gallery {id!r} holds embeddings of the contract {row.embedding_contract} with {row.dimension} "
            f"dimensions, not of {contract} with {dimension}. Use another gallery, or the bundle it was made with.",
            {"gallery": id, "embedding_contract": row.embedding_contract, "dimension": row.dimension},
        )
    connection.execute(update(galleries).where(galleries.c.key == row.key).values(**shown))
    return get(connection, id), False


def get(connection: Connection, id: str) -> GalleryRecord:
    """The gallery ``id``; a transaction that writes holds it from here on. Raises GalleryNotFound.

    So the changes of one gallery are made one after the other, by however many replicas, and each sees all before it.
    """
    row = _row(connection, id)
    if row is None:
        raise GalleryNotFound(f"There is no gallery {id!r}.", {"gallery": id})
    return _record(row)


def with_key(connection: Connection, key: int) -> GalleryRecord:
    """The gallery with this key, which a condemned one is too; it must be there."""
    return _record(connection.execute(select(galleries).where(galleries.c.key == key)).one())


def page(
    connection: Connection, cursor: str | None, limit: int, among: Collection[str] | None = None
) -> Page[GalleryRecord]:
    """Galleries in the order of their ids; with ``among`` of these ids only."""
    after = galleries.c.id > page_after(cursor)  # never true of a condemned one, whose id is NULL
    here = after if among is None else and_(after, galleries.c.id.in_(among))
    query = select(galleries).where(here).order_by(galleries.c.id).limit(checked_limit(limit) + 1)
    return page_of(connection.execute(query).all(), limit, _record)


def pinned_of(connection: Connection, key: int) -> Space:
    """The pinned space of the gallery with ``key``. Raises GalleryNotFound."""
    g = galleries.c
    query = select(g.embedding_contract, g.dimension, g.template_slot).where(g.key == key)
    found = connection.execute(query).one_or_none()
    if found is None:
        raise GalleryNotFound(f"There is no gallery with the key {key}.", {"key": key})
    return Space(*found)


def changed(connection: Connection, key: int, persons: int = 0, faces: int = 0) -> None:
    """Bump the revision of a gallery that ``persons`` and ``faces`` were added to (or, below 0, taken from)."""
    counts = {"persons": galleries.c.persons + persons, "faces": galleries.c.faces + faces}
    row = update(galleries).where(galleries.c.key == key)
    connection.execute(row.values(revision=galleries.c.revision + 1, **counts))


def condemn(connection: Connection, id: str) -> int:
    """Take the gallery ``id`` away from its callers; its key. ``delete_some`` does the rest."""
    key = get(connection, id).key
    connection.execute(update(galleries).where(galleries.c.key == key).values(id=None, name=None, description=None))
    return key


def condemned(connection: Connection) -> list[int]:
    """The keys of galleries that are being deleted."""
    return list(connection.execute(select(galleries.c.key).where(galleries.c.id.is_(None))).scalars())


def delete_some(connection: Connection, keys: OpenKeys, key: int) -> tuple[list[int], bool]:
    """One bounded step of the deletion of the condemned gallery ``key``.

    Returns the keys of the persons that it removed, whose keys are to be destroyed when this is durable, if they are
    not with it, and whether there is more to do.
    """
    hold(connection, key)
    for table, column in ((faces, faces.c.key), (persons, persons.c.key), (enrolments, enrolments.c.key)):
        query = select(column).where(table.c.gallery_key == key).order_by(column).limit(STEP)
        some = connection.execute(query).scalars().all()
        if some:
            connection.execute(delete(table).where(table.c.gallery_key == key, column.in_(some)))
            if table is not persons:
                return [], True
            keys.remove(some)
            return [*some], True
    connection.execute(delete(galleries).where(galleries.c.key == key))
    return [], False


def hold(connection: Connection, key: int) -> None:
    """Make other transactions that would change the gallery ``key`` wait for the end of this one."""
    connection.execute(select(galleries.c.key).where(galleries.c.key == key).with_for_update(key_share=True))


# Made once, as every search asks it.
_BY_ID = select(galleries).where(galleries.c.id == bindparam("wanted"))
# SQLite, which has one writer at a time, leaves the clause out.
_BY_ID_HELD = _BY_ID.with_for_update(key_share=True)


def _row(connection: Connection, id: str) -> Any:
    query = _BY_ID_HELD if connection.get_execution_options().get(WRITES) else _BY_ID
    return connection.execute(query, {"wanted": checked_id("gallery", id)}).one_or_none()


def _record(row: Any) -> GalleryRecord:
    return GalleryRecord(**row._mapping)
