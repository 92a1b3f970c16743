"""Whole persons with their templates, many at a time: how a gallery moves out and in.

Functions of an open transaction, as in ``store_persons``.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Select, Table, bindparam, insert, select, update

from service.errors import Conflict, InvalidRequest, ModelMismatch
from service.gallery import store_galleries, store_persons
from service.gallery.records import GalleryRecord, Metadata, Page, Templates
from service.gallery.spaces import Space
from service.gallery.store_seals import open_templates, seal_templates
from service.gallery.store_spaces import pinned_space, spaces_of, table_of
from service.gallery.store_values import (
    batches,
    checked_id,
    checked_metadata,
    checked_text,
    checked_time,
    now,
    page_of,
)
from service.gallery.tables import faces, persons
from service.security.key_file import new_name
from service.security.person_keys import OpenKeys


@dataclass(frozen=True, eq=False)
class BulkFace:
    """A face with its template.

    Attributes:
        embedding: float32 (d,), unit length.
        facts: what was known of the photo it came from (box, quality).
        created_at: None, in an import, for now.
    """

    id: str
    embedding: NDArray[np.float32]
    facts: Mapping[str, object] = field(default_factory=dict)
    created_at: datetime | None = None


@dataclass(frozen=True, eq=False)
class BulkPerson:
    """A person with faces; ``created_at`` None, in an import, for now."""

    id: str
    name: str | None = None
    metadata: Metadata = field(default_factory=dict)
    expires_at: datetime | None = None
    created_at: datetime | None = None
    faces: tuple[BulkFace, ...] = ()


@dataclass(frozen=True, eq=False)
class Imported:
    """What an import did.

    Attributes:
        persons_created, persons_updated: how many are new, and how many of the others it changed.
        faces_present: how many of the faces were there already, with the same template.
        added: the templates of the new faces, in the order they were given.
        contract: of these.
    """

    persons_created: int
    persons_updated: int
    faces_present: int
    added: Templates
    contract: str


def export_page(
    connection: Connection, keys: OpenKeys, gallery: str, cursor: str | None, limit: int, most_faces: int
) -> tuple[GalleryRecord, Page[BulkPerson]]:
    """See ``Store.export_page``."""
    owner = store_galleries.get(connection, gallery)
    page = store_persons.page(connection, gallery, cursor, limit, None)
    total = np.cumsum([person.faces for person in page.items])
    fit = max(1, int(np.searchsorted(total, most_faces, side="right")))
    cut = page_of(page.items, fit, lambda person: person)
    found, gone = _faces_of(connection, keys, owner, [person.key for person in cut.items])
    whole = tuple(
        BulkPerson(p.id, p.name, p.metadata, p.expires_at, p.created_at, tuple(found.get(p.key, ())))
        for p in cut.items
        if p.key not in gone
    )
    return owner, Page(whole, cut.cursor or page.cursor)


def import_persons(
    connection: Connection, keys: OpenKeys, gallery: str, given: Sequence[BulkPerson], contract: str | None = None
) -> Imported:
    """See ``Store.import_persons``."""
    owner = store_galleries.get(connection, gallery)
    space = _space(connection, owner, contract)
    _refuse_doubles("person", [person.id for person in given])
    _refuse_doubles("face", [face.id for person in given for face in person.faces])
    _check_embeddings(given, space.dimension)
    key_of, created, updated = _put_persons(connection, keys, owner.key, given)
    there = _templates_by_id(connection, keys, owner, space, [face.id for person in given for face in person.faces])
    new: list[tuple[int, BulkFace]] = []
    # Faces that are there, but not in this space of a gallery with two.
    lacking: list[tuple[int, int, BulkFace]] = []
    for person in given:
        for face in person.faces:
            known = there.get(face.id)
            if known is None:
                new.append((key_of[person.id], face))
            elif known.person == key_of[person.id] and known.template is None:
                lacking.append((known.key, known.person, face))
            elif (known.person, known.template) != (key_of[person.id], _blob(face.embedding)):
                raise Conflict(
                    f"The face id {face.id!r} is taken in this gallery, by another template or another person.",
                    {"face": face.id, "person": person.id},
                )
    added = _insert_faces(connection, owner, new)
    made = [(key, person, face) for (key, person), (_, face) in zip(added, new, strict=True)] + lacking
    templates = _insert_templates(connection, keys, owner, space, made)
    if created or updated or made:
        store_galleries.changed(connection, owner.key, persons=created, faces=len(new))
    return Imported(created, updated, len(there) - len(lacking), templates, space.contract)


def _faces_of(
    connection: Connection, keys: OpenKeys, owner: GalleryRecord, persons: Iterable[int]
) -> tuple[dict[int, list[BulkFace]], set[int]]:
    """The faces of each person that are in the pinned space, in the order they were added, so that an import adds them
    in that order; and who is being deleted at this moment."""
    space = pinned_space(owner)
    table = table_of(space)
    query = select(faces, table.c.sealed).join(table, table.c.face_key == faces.c.key).order_by(faces.c.key)
    found: dict[int, list[BulkFace]] = {}
    gone: set[int] = set()
    for batch in batches(persons):
        rows = connection.execute(query.where(faces.c.person_key.in_(batch))).all()
        there, embeddings = _open(keys, owner, space, rows)
        for row, embedding, opened in zip(rows, embeddings, there, strict=True):
            if opened:
                found.setdefault(row.person_key, []).append(BulkFace(row.id, embedding, row.facts, row.created_at))
            else:
                gone.add(row.person_key)
    return found, gone


def _open(
    keys: OpenKeys, owner: GalleryRecord, space: Space, rows: Sequence[Any]
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Which of the rows (key, person_key, sealed) opened, and their templates."""
    persons, face_keys, blobs = ([getattr(row, name) for row in rows] for name in ("person_key", "key", "sealed"))
    return open_templates(keys, owner.key, persons, face_keys, blobs, space.dimension, space.slot)


def _put_persons(
    connection: Connection, keys: OpenKeys, gallery_key: int, given: Sequence[BulkPerson]
) -> tuple[dict[str, int], int, int]:
    """Make or change the persons; the key of each by its id, how many were made, how many changed."""
    ids = [person.id for person in given]
    here = select(persons).where(persons.c.gallery_key == gallery_key)
    before = {row.id: row for row in _with_ids(connection, here, persons, ids)}
    at = now()
    new: list[dict[str, Any]] = []
    changed: list[dict[str, Any]] = []
    for person in given:
        values = {
            "name": checked_text("name", person.name),
            "metadata": checked_metadata(person.metadata),
            "expires_at": checked_time("expires_at", person.expires_at),
        }
        row = before.get(person.id)
        if row is None:
            created_at = checked_time("created_at", person.created_at) or at
            stamps = {"created_at": created_at, "updated_at": at}
            new.append({"gallery_key": gallery_key, "id": person.id, "key_name": new_name(), **stamps, **values})
        elif any(_exact(getattr(row, name)) != _exact(value) for name, value in values.items()):
            changed.append({"row": row.key, "updated_at": at, **values})
    if new:
        connection.execute(insert(persons), new)
    if changed:
        connection.execute(update(persons).where(persons.c.key == bindparam("row")), changed)
    made = _keys_by_id(connection, persons, gallery_key, [row["id"] for row in new])
    # On the disk before the rows are, see ``store_keys``.
    keys.add({made[row["id"]]: row["key_name"] for row in new})
    return {row.id: row.key for row in before.values()} | made, len(new), len(changed)


def _insert_faces(
    connection: Connection, owner: GalleryRecord, new: Sequence[tuple[int, BulkFace]]
) -> list[tuple[int, int]]:
    """Key and person of each."""
    if not new:
        return []
    at = now()
    rows = [
        {
            "gallery_key": owner.key,
            "person_key": person_key,
            "id": face.id,
            "facts": dict(face.facts),
            "created_at": checked_time("created_at", face.created_at) or at,
        }
        for person_key, face in new
    ]
    connection.execute(insert(faces), rows)
    key_of = _keys_by_id(connection, faces, owner.key, [face.id for _, face in new])
    return [(key_of[face.id], person_key) for person_key, face in new]


def _insert_templates(
    connection: Connection,
    keys: OpenKeys,
    owner: GalleryRecord,
    space: Space,
    made: Sequence[tuple[int, int, BulkFace]],
) -> Templates:
    """``made``: key, person and face of each."""
    if not made:
        return Templates(np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, space.dimension), np.float32))
    face_keys, owners = [key for key, _, _ in made], [person for _, person, _ in made]
    embeddings = [face.embedding for _, _, face in made]
    sealed = seal_templates(keys, owner.key, owners, face_keys, embeddings, space.slot)
    connection.execute(insert(table_of(space)), sealed)
    return Templates(np.array(face_keys, np.int64), np.array(owners, np.int64), np.stack(embeddings))


@dataclass(frozen=True)
class _Known:
    """A face that is there; ``template``: None where it is not in the space that was asked about."""

    key: int
    person: int
    template: bytes | None


def _templates_by_id(
    connection: Connection, keys: OpenKeys, owner: GalleryRecord, space: Space, ids: Sequence[str]
) -> dict[str, _Known]:
    """Those of these faces that are there."""
    table = table_of(space)
    columns = (faces.c.id, faces.c.key, faces.c.person_key, table.c.sealed)
    query = select(*columns).outerjoin(table, table.c.face_key == faces.c.key).where(faces.c.gallery_key == owner.key)
    rows = list(_with_ids(connection, query, faces, ids))
    there = [row for row in rows if row.sealed is not None]
    _, embeddings = _open(keys, owner, space, there)
    found = {row.id: _Known(row.key, row.person_key, None) for row in rows}
    known = zip(there, embeddings, strict=True)
    return found | {row.id: _Known(row.key, row.person_key, _blob(embedding)) for row, embedding in known}


def _space(connection: Connection, owner: GalleryRecord, contract: str | None) -> Space:
    """That of a contract, or the pinned one. Raises ModelMismatch."""
    spaces = spaces_of(connection, owner)
    found = [space for space in spaces if contract in (None, space.contract)]
    if not found:
        raise ModelMismatch(
            f"The embeddings were made under contract {contract!r:.20}…; the gallery holds those of "
            f"{' and '.join(repr(space.contract[:16]) + '…' for space in spaces)}.",
            {"embedding_contract": owner.embedding_contract},
        )
    return found[0]


def _keys_by_id(connection: Connection, table: Table, gallery_key: int, ids: Sequence[str]) -> dict[str, int]:
    """The keys of a gallery's persons or faces."""
    here = select(table.c.id, table.c.key).where(table.c.gallery_key == gallery_key)
    return {row.id: row.key for row in _with_ids(connection, here, table, ids)}


def _with_ids(connection: Connection, query: Select[Any], table: Table, ids: Sequence[str]) -> Iterator[Any]:
    for start in range(0, len(ids), 500):
        yield from connection.execute(query.where(table.c.id.in_(ids[start : start + 500])))


def _refuse_doubles(kind: str, ids: Sequence[str]) -> None:
    seen: set[str] = set()
    for id in ids:
        if checked_id(kind, id) in seen:
            raise Conflict(f"The {kind} id {id!r} is given twice. Give every {kind} its own.", {kind: id})
        seen.add(id)


def _check_embeddings(given: Sequence[BulkPerson], dimension: int) -> None:
    embeddings = [face.embedding for person in given for face in person.faces]
    for embedding in embeddings:
        if embedding.shape != (dimension,):
            raise ModelMismatch(
                f"An embedding has the shape {embedding.shape}; this gallery holds ({dimension},).",
                {"dimension": dimension},
            )
    if any(e.dtype != np.float32 for e in embeddings) or not np.isfinite(embeddings).all():
        raise InvalidRequest("Embeddings must be of finite float32 numbers.")


def _blob(embedding: NDArray[np.float32]) -> bytes:
    return embedding.astype("<f4").tobytes()


def _exact(value: object) -> str:
    """To compare by: in Python True equals 1, in metadata it doesn't."""
    return json.dumps(value, sort_keys=True, default=str)
