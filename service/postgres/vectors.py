"""Persons' vectors in the database, written in the transactions that change their faces."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import BigInteger, Column, Connection, any_, bindparam, delete, insert, select, text
from sqlalchemy.dialects.postgresql import ARRAY

from service.gallery.person_template import person_templates
from service.gallery.records import GalleryRecord, Templates
from service.gallery.store_seals import open_templates
from service.gallery.store_values import batches
from service.gallery.tables import faces, persons, templates_table
from service.gallery.vectors import Keys, Vectors
from service.postgres import changes
from service.postgres.rotation import PURPOSE, Halves, Rotation
from service.postgres.vector_tables import (
    changes as changes_table,
)
from service.postgres.vector_tables import drop_partition, make_partition, partition_name, person_sizes, searched


class PersonVectors:
    """A ``Projection``: for each person with a face a row with the template, turned and rounded (see ``rotation``).

    The transactions it is called in have locked their gallery, so that a person's row is made of all faces.
    """

    def __init__(self, keys: Any) -> None:
        """``keys``: of the persons; the rotation is derived from their secret."""
        self._keys, self._secret = keys, keys.derived(PURPOSE)
        self._rotations: dict[int, Rotation] = {}
        self._making = threading.Lock()

    def rotation(self, dimension: int) -> Rotation:
        """That of all galleries of a dimension."""
        with self._making:
            if dimension not in self._rotations:
                self._rotations[dimension] = Rotation(self._secret, dimension)
            return self._rotations[dimension]

    def made(self, connection: Connection, gallery: GalleryRecord) -> None:
        # Of another gallery with its key, where a dump without vectors was restored over a database.
        self._clear(connection, gallery.dimension, gallery.key)
        make_partition(connection, gallery.dimension, gallery.key)
        row = {"gallery_key": gallery.key, "dimension": gallery.dimension, "forgotten": gallery.revision}
        connection.execute(insert(searched), row)

    def added(self, connection: Connection, gallery: GalleryRecord, templates: Templates) -> None:
        if not len(templates.faces) or not can_be_searched(connection, gallery):
            return
        before = self._counts(connection, gallery, np.unique(templates.persons))
        # Those with faces already are made anew from all of them.
        known = np.isin(templates.persons, list(before))
        fresh = Templates(templates.faces[~known], templates.persons[~known], templates.embeddings[~known])
        self._replace(connection, gallery, before, [fresh, self.templates_of(connection, gallery, list(before))])
        changes.record(connection, gallery, templates.faces, added=True)

    def removed(self, connection: Connection, gallery: GalleryRecord, person: int, faces: Sequence[int]) -> None:
        if not can_be_searched(connection, gallery):
            return
        before = self._counts(connection, gallery, np.array([person]))
        self._replace(connection, gallery, before, [self.templates_of(connection, gallery, [person])])
        changes.record(connection, gallery, np.array(faces, np.int64), added=False)

    def condemned(self, connection: Connection, gallery_key: int) -> None:
        here = searched.c.gallery_key == gallery_key
        dimension = connection.execute(select(searched.c.dimension).where(here)).scalar_one_or_none()
        if dimension is not None:
            self._clear(connection, dimension, gallery_key)

    def _clear(self, connection: Connection, dimension: int, gallery_key: int) -> None:
        # An index that is being built would hold up the deletion for minutes.
        connection.execute(_STOP_BUILDING, {"table": partition_name(dimension, gallery_key)})
        drop_partition(connection, dimension, gallery_key)
        for table in (person_sizes, changes_table, searched):
            connection.execute(delete(table).where(table.c.gallery_key == gallery_key))

    def fill(self, connection: Connection, gallery: GalleryRecord) -> None:
        """All vectors of a gallery that has none: it is older than they are, or was restored without them."""
        self.made(connection, gallery)
        query = select(persons.c.key).where(persons.c.gallery_key == gallery.key).order_by(persons.c.key)
        keys = connection.execute(query).scalars().all()
        for some in batches(keys):
            self._replace(connection, gallery, {}, [self.templates_of(connection, gallery, some)])

    def templates_of(self, connection: Connection, gallery: GalleryRecord, persons: Sequence[int]) -> Templates:
        """All faces of these persons."""
        return self._opened(connection, gallery.key, gallery.dimension, faces.c.person_key, persons)

    def templates_with(
        self, connection: Connection, gallery_key: int, dimension: int, face_keys: Sequence[int]
    ) -> Templates:
        """These faces of one gallery; those that are gone are left out."""
        return self._opened(connection, gallery_key, dimension, faces.c.key, face_keys)

    def _opened(
        self, connection: Connection, gallery_key: int, dimension: int, column: Column[Any], wanted: Sequence[int]
    ) -> Templates:
        table = templates_table(dimension)
        query = select(faces.c.key, faces.c.person_key, table.c.sealed).join(table, table.c.face_key == faces.c.key)
        here = column == any_(bindparam("wanted", list(wanted), ARRAY(BigInteger)))
        rows = connection.execute(query.where(here)).all() if wanted else []
        face_keys, persons, sealed = ([row[place] for row in rows] for place in range(3))
        keys = self._keys.within(connection)
        there, vectors = open_templates(keys, gallery_key, persons, face_keys, sealed, dimension)
        return Templates(np.array(face_keys, np.int64)[there], np.array(persons, np.int64)[there], vectors[there])

    def _counts(self, connection: Connection, gallery: GalleryRecord, persons: Keys) -> dict[int, int]:
        """How many faces those of these persons have who have some, as it was before the change."""
        table = partition_name(gallery.dimension, gallery.key)
        query = text(
            f"SELECT person_key, faces FROM {table} WHERE gallery_key = :gallery AND person_key = ANY(:persons)"
        )
        rows = connection.execute(query, {"gallery": gallery.key, "persons": persons.tolist()})
        return {row[0]: row[1] for row in rows}

    def _replace(
        self, connection: Connection, gallery: GalleryRecord, before: dict[int, int], blocks: Sequence[Templates]
    ) -> None:
        """New rows for those in ``before``, whom the blocks have with all their faces, if any, and for the others."""
        persons, counts, vectors = means(blocks, gallery.dimension)
        table = partition_name(gallery.dimension, gallery.key)
        if before:
            gone = text(f"DELETE FROM {table} WHERE gallery_key = :gallery AND person_key = ANY(:persons)")
            connection.execute(gone, {"gallery": gallery.key, "persons": list(before)})
        if len(persons):
            rows = copied_rows(gallery.key, persons, counts, self.rotation(gallery.dimension).turn(vectors).halves)
            cursor = connection.connection.cursor()
            with cursor.copy(
                f"COPY {table} (gallery_key, person_key, faces, vector) FROM STDIN (FORMAT BINARY)"
            ) as copy:
                copy.write(rows)
            cursor.close()
        sizes, numbers = np.unique(
            np.concatenate([counts, list(before.values())]).astype(np.int64), return_inverse=True
        )
        steps = np.bincount(numbers, np.repeat([1, -1], [len(counts), len(before)]), len(sizes)).astype(np.int64)
        values = {"gallery": gallery.key, "faces": sizes.tolist(), "steps": steps.tolist()}
        connection.execute(_COUNT, values)


def means(blocks: Sequence[Templates], dimension: int) -> tuple[Keys, NDArray[np.int64], Vectors]:
    """Persons, ascending, how many faces each has, and their templates, float32 (n, d)."""
    owners = np.concatenate([np.empty(0, np.int64), *(block.persons for block in blocks)])
    embeddings = np.concatenate([np.empty((0, dimension), np.float32), *(block.embeddings for block in blocks)])
    order = np.argsort(owners, kind="stable")
    persons, starts, counts = np.unique(owners[order], return_index=True, return_counts=True)
    return persons, counts, person_templates(embeddings[order], starts, counts)


def copied_rows(gallery: int, persons: Keys, counts: NDArray[np.int64], halves: Halves) -> bytes:
    """Rows (gallery_key, person_key, faces, vector) as COPY in binary takes them."""
    dimension = halves.shape[1]
    row = np.dtype(
        [
            *(
                ("columns", ">i2"),
                ("gallery_size", ">i4"),
                ("gallery", ">i8"),
                ("person_size", ">i4"),
                ("person", ">i8"),
            ),
            *(("faces_size", ">i4"), ("faces", ">i4"), ("vector_size", ">i4")),
            *(("dimension", ">i2"), ("unused", ">i2"), ("vector", ">f2", (dimension,))),
        ]
    )
    rows = np.zeros(len(persons), row)
    rows["columns"], rows["gallery_size"], rows["person_size"], rows["faces_size"] = 4, 8, 8, 4
    rows["vector_size"], rows["dimension"] = 4 + 2 * dimension, dimension
    rows["gallery"], rows["person"], rows["faces"], rows["vector"] = gallery, persons, counts, halves
    return b"PGCOPY\n\xff\r\n\0" + bytes(8) + rows.tobytes() + b"\xff\xff"


def can_be_searched(connection: Connection, gallery: GalleryRecord) -> bool:
    """Whether the gallery's vectors are in the database: not yet, where it is older than they are or was restored
    from a backup without them."""
    values = {"gallery": gallery.key, "table": partition_name(gallery.dimension, gallery.key)}
    return connection.execute(_CAN_BE_SEARCHED, values).scalar_one_or_none() is not None


_CAN_BE_SEARCHED = text(
    "SELECT 1 FROM searched_galleries WHERE gallery_key = :gallery AND to_regclass(:table) IS NOT NULL"
)
_COUNT = text(
    "INSERT INTO person_sizes (gallery_key, faces, persons) "
    "SELECT :gallery, each.faces, each.step FROM unnest(CAST(:faces AS int[]), CAST(:steps AS bigint[])) "
    "AS each(faces, step) WHERE each.step <> 0 "
    "ON CONFLICT (gallery_key, faces) DO UPDATE SET persons = person_sizes.persons + excluded.persons"
)
_STOP_BUILDING = text(
    "SELECT pg_cancel_backend(pid) FROM pg_stat_progress_create_index "
    "WHERE relid = to_regclass(:table) AND datname = current_database()"
)
