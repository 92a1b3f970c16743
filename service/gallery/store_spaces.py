"""Templates of a gallery's spaces in the database, and who is searched in which. Functions of an open transaction."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Select, and_, case, func, insert, literal, or_, select

from service.errors import InvalidRequest, ModelMismatch
from service.gallery import store_galleries, store_persons
from service.gallery.records import GalleryRecord, Page, Templates
from service.gallery.spaces import Migration, Pending, Progress, Space
from service.gallery.store_seals import open_templates, seal_templates
from service.gallery.store_values import batches, checked_limit, page_after, page_of, plain_rows
from service.gallery.tables import crops, faces, model_migrations, persons, templates_table
from service.security.person_keys import OpenKeys

Vectors = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Decided:
    """Who is searched where: keys of persons, int64, ascending, of those with a face.

    Attributes:
        preferred: in the preferred space.
        others: in the other one.
    """

    preferred: NDArray[np.int64]
    others: NDArray[np.int64]


def table_of(space: Space) -> Any:
    """The table of the templates of a space."""
    return templates_table(space.dimension, space.slot)


def pinned_space(owner: GalleryRecord) -> Space:
    """That of a gallery's contract."""
    return Space(owner.embedding_contract, owner.dimension, owner.template_slot)


def migration_of(connection: Connection, gallery_key: int) -> Migration | None:
    """The gallery's migration; None where it has one space, or keeps only one."""
    row = connection.execute(
        select(model_migrations).where(model_migrations.c.gallery_key == gallery_key)
    ).one_or_none()
    return None if row is None or row.phase == "discarding" else of_row(row)


def of_row(row: Any) -> Migration:
    """A row of ``model_migrations``."""
    source, target = (Space(*(getattr(row, f"{end}_{name}") for name in _SPACE)) for end in ("source", "target"))
    return Migration(
        row.gallery_key, row.phase, source, target, row.since_face, row.crops_fit, row.started_at, row.cut_over_at
    )


_SPACE = ("contract", "dimension", "slot")


def spaces_of(connection: Connection, owner: GalleryRecord) -> tuple[Space, ...]:
    """The pinned space, and the other one during a migration."""
    found = migration_of(connection, owner.key)
    return (pinned_space(owner),) if found is None else found.spaces


def check_embeddings(given: Sequence[Vectors], spaces: Sequence[Space]) -> None:
    """Raises ModelMismatch, InvalidRequest for faces that are in none of the spaces, or do not look like it."""
    if not given:
        raise InvalidRequest("There is no face to add.")
    for vectors in given:
        known = [space for space in spaces if space.contract in vectors]
        if not known:
            raise ModelMismatch(
                f"The embeddings were made under contract {next(iter(vectors))[:16]!r}…; this gallery holds those of "
                f"{' and '.join(repr(space.contract[:16]) + '…' for space in spaces)}.",
                {"embedding_contract": spaces[0].contract},
            )
        for space in known:
            _check(vectors[space.contract], space.dimension)


def _check(embedding: NDArray[np.float32], dimension: int) -> None:
    if embedding.shape != (dimension,):
        raise ModelMismatch(
            f"An embedding has the shape {embedding.shape}; this gallery holds ({dimension},).",
            {"dimension": dimension},
        )
    if embedding.dtype != np.float32 or not np.isfinite(embedding).all():
        raise InvalidRequest(f"An embedding must be of finite float32 numbers; this one is {embedding.dtype}.")


def add(
    connection: Connection,
    keys: OpenKeys,
    gallery: int,
    spaces: Sequence[Space],
    owned: Sequence[tuple[int, int]],
    given: Sequence[Vectors],
) -> None:
    """Keep the templates of new faces, each in the spaces that it has one of.

    Args:
        owned: person and face of each, by their keys.
    """
    for space in spaces:
        here = [
            (*place, vectors[space.contract])
            for place, vectors in zip(owned, given, strict=True)
            if space.contract in vectors
        ]
        if here:
            people, made, embeddings = zip(*here, strict=True)
            rows = seal_templates(keys, gallery, people, made, embeddings, space.slot)
            connection.execute(insert(table_of(space)), rows)


def add_embedded(connection: Connection, keys: OpenKeys, gallery: int, space: Space, embedded: Templates) -> Templates:
    """Keep templates of faces that are there already, those that are not in the space yet; which they were."""
    table, known = table_of(space), {}
    for batch in batches(embedded.faces.tolist()):
        query = select(faces.c.key, faces.c.person_key).outerjoin(table, table.c.face_key == faces.c.key)
        here = (faces.c.gallery_key == gallery, faces.c.key.in_(batch), table.c.face_key.is_(None))
        known.update(dict(plain_rows(connection.execute(query.where(*here)))))
    rows = [i for i, face in enumerate(embedded.faces.tolist()) if face in known]
    fresh = Templates(embedded.faces[rows], embedded.persons[rows], embedded.embeddings[rows])
    if rows:
        sealed = seal_templates(
            keys, gallery, fresh.persons.tolist(), fresh.faces.tolist(), list(fresh.embeddings), space.slot
        )
        connection.execute(insert(table), sealed)
        store_galleries.changed(connection, gallery)
    return fresh


def face_keys(connection: Connection, gallery: int, space: Space) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The keys of the faces that are in a space, ascending, and of the person of each."""
    table = table_of(space)
    query = select(faces.c.key, faces.c.person_key).join(table, table.c.face_key == faces.c.key)
    found = connection.execute(query.where(faces.c.gallery_key == gallery).order_by(faces.c.key))
    rows = np.array(plain_rows(found), np.int64).reshape(-1, 2)
    return rows[:, 0].copy(), rows[:, 1].copy()


def embeddings(
    connection: Connection, keys: OpenKeys, place: tuple[str, str], migration: Migration
) -> tuple[Space, NDArray[np.float32]]:
    """The space in which a person is searched, and the templates there, float32 (n, d)."""
    key = store_persons.get(connection, *place).key
    there = decided(connection, migration, [key])
    preferred, other = migration.preferred
    space = other if key in there.others else preferred
    table = table_of(space)
    query = select(faces.c.key, table.c.sealed).join(faces, table.c.face_key == faces.c.key)
    rows = connection.execute(query.where(faces.c.person_key == key).order_by(faces.c.key)).all()
    made, sealed = [row.key for row in rows], [row.sealed for row in rows]
    opened, vectors = open_templates(
        keys, migration.gallery_key, [key] * len(rows), made, sealed, space.dimension, space.slot
    )
    if not opened.all():
        raise store_persons.missing(*place)
    return space, vectors


def decided(connection: Connection, migration: Migration, among: Iterable[int] | None = None) -> Decided:
    """Who of a gallery, or of the persons ``among`` it, is searched where."""
    preferred = _counts(migration, *migration.preferred).subquery()
    query = select(preferred.c.person_key, _is_preferred(preferred.c, migration.since_face))
    if among is None:
        rows = list(plain_rows(connection.execute(query)))
    else:
        rows = []
        for batch in batches(among):
            rows += plain_rows(connection.execute(query.where(preferred.c.person_key.in_(batch))))
    found = np.array(rows, np.int64).reshape(-1, 2)
    found = found[np.argsort(found[:, 0])]
    return Decided(found[found[:, 1] == 1, 0], found[found[:, 1] == 0, 0])


def progress(connection: Connection, migration: Migration) -> Progress:
    """How far it is."""
    p = _counts(migration, migration.target, migration.source).subquery()
    moved = _is_preferred(p.c, migration.since_face)
    sums = [func.coalesce(func.sum(column), 0) for column in (p.c.faces, p.c.here, p.c.waiting, moved)]
    row: Sequence[Any] = connection.execute(select(*sums, func.count(p.c.person_key))).one()
    faces_all, embedded, waiting, persons_moved, people = (int(number) for number in row)
    return Progress(faces_all, people, embedded, waiting, persons_moved)


def pending(connection: Connection, migration: Migration, cursor: str | None, limit: int) -> Page[Pending]:
    """Persons who are not in the target, in the order of their ids."""
    p = _counts(migration, migration.target, migration.source).subquery()
    query = (
        select(persons.c.id, persons.c.name, p.c.faces, p.c.here, p.c.waiting)
        .join(p, p.c.person_key == persons.c.key)
        .where(persons.c.id > page_after(cursor), _is_preferred(p.c, migration.since_face) == 0)
        .order_by(persons.c.id)
        .limit(checked_limit(limit) + 1)
    )
    return page_of(connection.execute(query).all(), limit, lambda row: Pending(*row))


def only_in(connection: Connection, migration: Migration, space: Space) -> int:
    """How many persons with faces have none outside of ``space``."""
    here, other = (migration.source, migration.target)
    p = _counts(migration, *((here, other) if space == here else (other, here))).subquery()
    return int(connection.execute(select(func.count()).where(p.c.there == 0)).scalar_one())


def _counts(migration: Migration, space: Space, other: Space) -> Select[Any]:
    """Of every person with a face: how many there are, ``here`` in a space, ``there`` in the other, the key of the
    newest that is here, and how many wait for their crop to be embedded into the target."""
    a, b = table_of(space), table_of(other)
    target = a if space == migration.target else b
    waits = and_(target.c.face_key.is_(None), crops.c.face_key.is_not(None), literal(migration.crops_fit))
    return (
        select(
            faces.c.person_key,
            func.count().label("faces"),
            func.count(a.c.face_key).label("here"),
            func.count(b.c.face_key).label("there"),
            func.coalesce(func.max(a.c.face_key), 0).label("newest"),
            func.sum(case((waits, 1), else_=0)).label("waiting"),
        )
        .select_from(faces)
        .outerjoin(a, a.c.face_key == faces.c.key)
        .outerjoin(b, b.c.face_key == faces.c.key)
        .outerjoin(crops, crops.c.face_key == faces.c.key)
        .where(faces.c.gallery_key == migration.gallery_key)
        .group_by(faces.c.person_key)
    )


def _is_preferred(counts: Any, since_face: int) -> Any:
    """1 for persons who are searched ``here``: all of whose faces are, or a newer one is, or who is nowhere else."""
    here = or_(counts.here == counts.faces, counts.newest > since_face, counts.there == 0)
    return case((here, 1), else_=0).label("preferred")
