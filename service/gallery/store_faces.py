"""Faces and their templates in the database. Functions of an open transaction, as in ``store_persons``."""

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, bindparam, delete, func, insert, select

from service.errors import Conflict, FaceIdNotFound
from service.gallery import store_crops, store_galleries, store_persons, store_spaces
from service.gallery.records import FaceRecord, NewFace, Page, PersonRecord, Templates
from service.gallery.spaces import Space
from service.gallery.store_persons import Removed
from service.gallery.store_seals import open_templates
from service.gallery.store_values import (
    batches,
    checked_id,
    checked_key,
    checked_limit,
    now,
    page_after,
    page_of,
    plain_rows,
)
from service.gallery.tables import enrolments, faces, persons, templates_table
from service.security.person_keys import OpenKeys

Answer = Callable[[Sequence[FaceRecord]], Mapping[str, Any]]


@dataclass(frozen=True)
class Once:
    """An idempotency key: what is added under it is added once.

    Attributes:
        key: the caller's, 1 to 255 printable ASCII characters; one namespace for each gallery.
        request_sha256: hex digest of everything that the caller asked for under it.
    """

    key: str
    request_sha256: str


@dataclass(frozen=True)
class AddedFaces:
    """What became of an enrolment.

    Attributes:
        person_key: the person's key.
        faces: the new faces, in the order they were given; empty when ``repeated``.
        answer: what the caller made of the faces, now or the first time.
        repeated: the same was asked for before, and nothing was added now.
    """

    person_key: int
    faces: tuple[FaceRecord, ...]
    answer: Mapping[str, Any]
    repeated: bool

    def templates(self, given: Sequence[NewFace], pinned: str) -> Templates:
        """The new faces with the embeddings given for them, in a gallery that is pinned to the contract ``pinned``."""
        keys = np.array([face.key for face in self.faces], np.int64)
        owners = np.full(len(keys), self.person_key, np.int64)
        return Templates(keys, owners, np.stack([face.embeddings(pinned)[pinned] for face in given]))


def add(
    connection: Connection,
    keys: OpenKeys,
    place: tuple[str, str],
    new: Sequence[NewFace],
    once: Once | None,
    answer: Answer | None,
) -> AddedFaces:
    """See ``Store.add_faces``; ``place`` is gallery and person."""
    gallery, person = place
    owner = store_galleries.get(connection, gallery)
    person_key = store_persons.get(connection, gallery, person).key
    if once is not None and (before := _answered(connection, owner.key, person, once)) is not None:
        return AddedFaces(person_key, (), before, repeated=True)
    migration = store_spaces.migration_of(connection, owner.key)
    spaces = (store_spaces.pinned_space(owner),) if migration is None else migration.spaces
    given = [face.embeddings(owner.embedding_contract) for face in new]
    store_spaces.check_embeddings(given, spaces)
    ids = [f"f_{uuid.uuid4().hex}" if face.id is None else checked_id("face", face.id) for face in new]
    _refuse_taken(connection, owner.key, ids)
    at = now()
    made = _insert(connection, owner.key, person_key, ids, new, at)
    store_spaces.add(connection, keys, owner.key, spaces, [(person_key, face) for face in made], given)
    # Crops as one bundle aligns them are kept, or none.
    if migration is None or migration.crops_fit:
        store_crops.add(connection, keys, owner.key, person_key, made, new)
    store_galleries.changed(connection, owner.key, faces=len(new))
    added = tuple(FaceRecord(key, id, dict(face.facts), at) for key, id, face in zip(made, ids, new, strict=True))
    told = dict(answer(added)) if answer else {}
    if once is not None:
        _remember(connection, owner.key, person, once, told, at)
    return AddedFaces(person_key, added, told, repeated=False)


def answered(connection: Connection, gallery: str, person: str, once: Once) -> Mapping[str, Any] | None:
    """See ``Store.answered``."""
    owner = store_galleries.get(connection, gallery)
    store_persons.get(connection, gallery, person)
    return _answered(connection, owner.key, person, once)


def page(connection: Connection, gallery: str, person: str, cursor: str | None, limit: int) -> Page[FaceRecord]:
    """The faces of a person in the order of their ids."""
    here = faces.c.person_key == store_persons.get(connection, gallery, person).key
    query = select(faces).where(here, faces.c.id > page_after(cursor)).order_by(faces.c.id)
    return page_of(connection.execute(query.limit(checked_limit(limit) + 1)).all(), limit, _record)


def remove(connection: Connection, gallery: str, person: str, face_id: str) -> Removed:
    """See ``Store.delete_face``."""
    owner = store_galleries.get(connection, gallery)
    person_key = store_persons.get(connection, gallery, person).key
    here = (faces.c.person_key == person_key, faces.c.id == checked_id("face", face_id))
    key = connection.execute(select(faces.c.key).where(*here)).scalar_one_or_none()
    if key is None:
        raise FaceIdNotFound(
            f"The person {person!r} of the gallery {gallery!r} has no face {face_id!r}.",
            {"gallery": gallery, "person": person, "face": face_id},
        )
    connection.execute(delete(faces).where(faces.c.key == key))
    store_galleries.changed(connection, owner.key, faces=-1)
    return Removed(person_key, [int(key)])


def owners(connection: Connection, keys: Iterable[int]) -> dict[int, tuple[PersonRecord, FaceRecord]]:
    """See ``Store.owners``."""
    found = {}
    for batch in batches(keys):
        for *person, key, id, facts, created_at in connection.execute(_OWNERS, {"keys": batch}):
            found[key] = PersonRecord(*person), FaceRecord(key, id, facts, created_at)
    return found


def first_faces(connection: Connection, people: Iterable[int]) -> dict[int, tuple[PersonRecord, FaceRecord]]:
    """See ``Store.first_faces``."""
    oldest = select(func.min(faces.c.key)).group_by(faces.c.person_key)
    queries = (oldest.where(faces.c.person_key.in_(batch)) for batch in batches(people))
    found = owners(connection, [key for query in queries for key in connection.execute(query).scalars()])
    return {person.key: (person, face) for person, face in found.values()}


# Made once: a search would spend more time on putting it together than on its rows.
_OWNERS = (
    store_persons.every()
    .add_columns(faces.c.key, faces.c.id, faces.c.facts, faces.c.created_at)
    .join_from(persons, faces, faces.c.person_key == persons.c.key)
    .where(faces.c.key.in_(bindparam("keys", expanding=True)))
)


def keys(connection: Connection, gallery_key: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """See ``Store.face_keys``."""
    query = select(faces.c.key, faces.c.person_key).where(faces.c.gallery_key == gallery_key).order_by(faces.c.key)
    rows = np.array(plain_rows(connection.execute(query)), np.int64).reshape(-1, 2)
    return rows[:, 0].copy(), rows[:, 1].copy()


def templates_after(
    connection: Connection, keys: OpenKeys, gallery_key: int, after: int, block: int, space: Space | None = None
) -> tuple[Templates, int | None]:
    """Of up to ``block`` faces of a gallery with keys above ``after``, ascending, the templates.

    Also after which key to go on; None at the end. ``space``: those of another space than the pinned one.
    """
    space = space or store_galleries.pinned_of(connection, gallery_key)
    dimension, table = space.dimension, store_spaces.table_of(space)
    query = select(faces.c.key, faces.c.person_key, table.c.sealed).join(table, table.c.face_key == faces.c.key)
    here = (faces.c.gallery_key == gallery_key, faces.c.key > after)
    rows = plain_rows(connection.execute(query.where(*here).order_by(faces.c.key).limit(block)))
    face_keys, person_keys, blobs = list(zip(*rows, strict=True)) or ((), (), ())
    there, vectors = open_templates(keys, gallery_key, person_keys, face_keys, blobs, dimension, space.slot)
    found = Templates(np.array(face_keys, np.int64), np.array(person_keys, np.int64), vectors)
    if not there.all():
        found = Templates(found.faces[there], found.persons[there], found.embeddings[there])
    return found, int(face_keys[-1]) if len(rows) == block else None


def templates_with(
    connection: Connection, keys: OpenKeys, gallery_key: int, wanted: Iterable[int], space: Space
) -> Templates:
    """Those of the faces ``wanted`` of a gallery that are in a space; those that are not there are left out."""
    table = store_spaces.table_of(space)
    query = select(faces.c.key, faces.c.person_key, table.c.sealed).join(table, table.c.face_key == faces.c.key)
    rows: list[Any] = []
    for batch in batches(wanted):
        here = (faces.c.gallery_key == gallery_key, faces.c.key.in_(batch))
        rows += plain_rows(connection.execute(query.where(*here).order_by(faces.c.key)))
    made, people, sealed = list(zip(*rows, strict=True)) or ((), (), ())
    there, vectors = open_templates(keys, gallery_key, people, made, sealed, space.dimension, space.slot)
    return Templates(np.array(made, np.int64)[there], np.array(people, np.int64)[there], vectors[there])


def embeddings(connection: Connection, keys: OpenKeys, gallery: str, person: str) -> NDArray[np.float32]:
    """The templates of a person, float32 (n, d), in the order of the face keys."""
    owner = store_galleries.get(connection, gallery)
    person_key = store_persons.get(connection, gallery, person).key
    table = templates_table(owner.dimension, owner.template_slot)
    query = select(faces.c.key, table.c.sealed).join(faces, table.c.face_key == faces.c.key)
    rows = connection.execute(query.where(faces.c.person_key == person_key).order_by(faces.c.key)).all()
    face_keys, blobs = [row.key for row in rows], [row.sealed for row in rows]
    there, vectors = open_templates(
        keys, owner.key, [person_key] * len(rows), face_keys, blobs, owner.dimension, owner.template_slot
    )
    if not there.all():
        raise store_persons.missing(gallery, person)
    return vectors


def _refuse_taken(connection: Connection, gallery_key: int, ids: Sequence[str]) -> None:
    if len(set(ids)) < len(ids):
        taken = next(id for index, id in enumerate(ids) if id in ids[:index])
        raise Conflict(f"The face id {taken!r} is given twice. Give every face its own.", {"face": taken})
    here = faces.c.gallery_key == gallery_key
    for start in range(0, len(ids), 500):
        query = select(faces.c.id).where(here, faces.c.id.in_(ids[start : start + 500])).order_by(faces.c.id).limit(1)
        found = connection.execute(query).scalar_one_or_none()
        if found is not None:
            raise Conflict(f"The face id {found!r} is taken in this gallery. Use another.", {"face": found})


def _insert(
    connection: Connection, gallery_key: int, person_key: int, ids: Sequence[str], new: Sequence[NewFace], at: datetime
) -> Sequence[int]:
    owner = {"gallery_key": gallery_key, "person_key": person_key, "created_at": at}
    rows = [{"id": id, "facts": dict(face.facts), **owner} for id, face in zip(ids, new, strict=True)]
    keys = insert(faces).returning(faces.c.key, sort_by_parameter_order=True)
    return connection.execute(keys, rows).scalars().all()


def _answered(connection: Connection, gallery_key: int, person: str, once: Once) -> Mapping[str, Any] | None:
    here = (enrolments.c.gallery_key == gallery_key, enrolments.c.key == checked_key(once.key))
    row = connection.execute(select(enrolments).where(*here)).one_or_none()
    if row is None:
        return None
    if (row.person, row.request_sha256) != (person, once.request_sha256):
        raise Conflict(
            f"The idempotency key {once.key!r} was used for another request. Use a new one.",
            {"idempotency_key": once.key},
        )
    return dict(row.answer)


def _remember(
    connection: Connection, gallery_key: int, person: str, once: Once, answer: Mapping[str, Any], at: datetime
) -> None:
    shown = {"key": once.key, "request_sha256": once.request_sha256, "answer": answer, "created_at": at}
    connection.execute(insert(enrolments).values(gallery_key=gallery_key, person=person, **shown))


def _record(row: Any) -> FaceRecord:
    return FaceRecord(key=row.key, id=row.id, facts=row.facts, created_at=row.created_at)
