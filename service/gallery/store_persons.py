"""Persons in the database. Functions of an open transaction; ``service.gallery.store`` gives them out."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Select, delete, func, insert, select, update

from service.errors import InvalidRequest, PersonNotFound
from service.gallery import store_galleries
from service.gallery.records import Metadata, Page, PersonRecord
from service.gallery.store_filters import matches
from service.gallery.store_values import (
    checked_id,
    checked_limit,
    checked_metadata,
    checked_text,
    checked_time,
    now,
    page_after,
    page_of,
)
from service.gallery.tables import enrolments, faces, persons
from service.security.key_file import new_name
from service.security.person_keys import OpenKeys

PATCHABLE = ("name", "metadata", "expires_at")


@dataclass(frozen=True)
class Removed:
    """Faces that were deleted, with their person or without: the person's key, and those of the faces, ascending."""

    key: int
    faces: list[int]


def put(
    connection: Connection,
    keys: OpenKeys,
    place: tuple[str, str],
    name: str | None,
    metadata: Metadata,
    expires_at: datetime | None,
) -> tuple[PersonRecord, bool]:
    """See ``Store.put_person``; ``place`` is gallery and person."""
    gallery, id = place
    owner = store_galleries.get(connection, gallery)
    checked_id("person", id)
    values = _checked({"name": name, "metadata": metadata, "expires_at": expires_at}) | {"updated_at": now()}
    row = connection.execute(_one(owner.key, id)).one_or_none()
    if row is None:
        key_name = new_name()
        new = {"gallery_key": owner.key, "id": id, "created_at": values["updated_at"], "key_name": key_name, **values}
        made = connection.execute(insert(persons).values(**new).returning(persons.c.key)).scalar_one()
        # On the disk before the row is, see ``store_keys``.
        keys.add({made: key_name})
    else:
        connection.execute(update(persons).where(persons.c.key == row.key).values(**values))
    store_galleries.changed(connection, owner.key, persons=int(row is None))
    return get(connection, gallery, id), row is None


def patch(connection: Connection, gallery: str, id: str, changes: Mapping[str, Any]) -> PersonRecord:
    """See ``Store.patch_person``."""
    if unknown := sorted(set(changes) - set(PATCHABLE)):
        raise InvalidRequest(f"A person has no field {unknown[0]!r} to change. Use {', '.join(PATCHABLE)}.")
    owner = store_galleries.get(connection, gallery)
    person = get(connection, gallery, id)
    if not changes:
        return person
    values = _checked(changes) | {"updated_at": now()}
    connection.execute(update(persons).where(persons.c.key == person.key).values(**values))
    store_galleries.changed(connection, owner.key)
    return get(connection, gallery, id)


def get(connection: Connection, gallery: str, id: str) -> PersonRecord:
    """The person ``id`` of ``gallery``. Raises GalleryNotFound, PersonNotFound."""
    owner = store_galleries.get(connection, gallery)
    row = connection.execute(_one(owner.key, checked_id("person", id))).one_or_none()
    if row is None:
        raise missing(gallery, id)
    return _record(row)


def missing(gallery: str, id: str) -> PersonNotFound:
    """The error for a person who is not there."""
    return PersonNotFound(f"There is no person {id!r} in the gallery {gallery!r}.", {"gallery": gallery, "person": id})


def page(
    connection: Connection, gallery: str, cursor: str | None, limit: int, filter: Metadata | None
) -> Page[PersonRecord]:
    """Persons in the order of their ids."""
    owner = store_galleries.get(connection, gallery)
    here = (persons.c.gallery_key == owner.key, persons.c.id > page_after(cursor), matches(connection, filter))
    rows = connection.execute(every().where(*here).order_by(persons.c.id).limit(checked_limit(limit) + 1)).all()
    return page_of(rows, limit, _record)


def remove(connection: Connection, keys: OpenKeys, gallery: str, id: str) -> Removed:
    """See ``Store.delete_person``. The person's key is to be destroyed when this is durable, if it is not with it."""
    owner = store_galleries.get(connection, gallery)
    person = get(connection, gallery, id)
    gone = list(connection.execute(select(faces.c.key).where(faces.c.person_key == person.key)).scalars())
    # Faces and templates go with the row; what was answered about them has no such link.
    connection.execute(delete(enrolments).where(enrolments.c.gallery_key == owner.key, enrolments.c.person == id))
    connection.execute(delete(persons).where(persons.c.key == person.key))
    keys.remove([person.key])
    store_galleries.changed(connection, owner.key, persons=-1, faces=-len(gone))
    return Removed(person.key, sorted(gone))


def keys(connection: Connection, gallery: str, filter: Metadata | None) -> NDArray[np.int64]:
    """The keys of the persons that match, ascending."""
    owner = store_galleries.get(connection, gallery)
    query = (
        select(persons.c.key)
        .where(persons.c.gallery_key == owner.key, matches(connection, filter))
        .order_by(persons.c.key)
    )
    return np.array(connection.execute(query).scalars().all(), np.int64)


def _checked(values: Mapping[str, Any]) -> dict[str, Any]:
    checked = dict(values)
    if "name" in values:
        checked["name"] = checked_text("name", values["name"])
    if "metadata" in values:
        checked["metadata"] = checked_metadata(values["metadata"])
    if "expires_at" in values:
        checked["expires_at"] = checked_time("expires_at", values["expires_at"])
    return checked


def every() -> Select[Any]:
    """All persons of all galleries, in the columns of a ``PersonRecord``."""
    # Under a name of its own, so that the query can be joined with faces.
    theirs = faces.alias("theirs")
    count = select(func.count()).where(theirs.c.person_key == persons.c.key).scalar_subquery()
    p = persons.c
    return select(
        p.key, p.id, p.name, p.metadata, p.expires_at, count.label("faces"), p.created_at, p.updated_at
    ).select_from(persons)


def _one(gallery_key: int, id: str) -> Select[Any]:
    return every().where(persons.c.gallery_key == gallery_key, persons.c.id == id)


def _record(row: Any) -> PersonRecord:
    return PersonRecord(*row)
