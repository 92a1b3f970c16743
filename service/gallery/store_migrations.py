"""Migrations of galleries in the database: begun, turned over, ended. Functions of an open transaction."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, delete, func, insert, select, update

from service.errors import Conflict
from service.gallery import store_galleries, store_spaces
from service.gallery.records import GalleryRecord
from service.gallery.spaces import Migration, Phase, Space
from service.gallery.store_crops import opened
from service.gallery.store_galleries import STEP
from service.gallery.store_spaces import migration_of, pinned_space, table_of
from service.gallery.store_values import now
from service.gallery.tables import crops, faces, galleries, model_migrations
from service.security.person_keys import OpenKeys


def begin(connection: Connection, gallery: str, contract: str, dimension: int, crops_fit: bool) -> Migration:
    """See ``SpaceStore.begin``."""
    owner = store_galleries.get(connection, gallery)
    known = _row_phase(connection, owner.key)
    if known == "discarding":
        raise Conflict(f"The other space of gallery {gallery!r} is still being erased. Try again in a moment.")
    migration = migration_of(connection, owner.key)
    if migration is not None and migration.target.contract == contract:
        if migration.phase == "rolled_back":
            _set_phase(connection, owner.key, "embedding")
        return _again(connection, owner)
    if migration is not None:
        raise Conflict(
            f"Gallery {gallery!r} is moving to contract {migration.target.contract[:16]}…; finish or abandon that "
            "first.",
            {"phase": migration.phase, "embedding_contract": migration.target.contract},
        )
    if owner.embedding_contract == contract:
        raise Conflict(f"Gallery {gallery!r} is of this contract already.", {"embedding_contract": contract})
    source = pinned_space(owner)
    target = Space(contract, dimension, 1 - source.slot)
    table_of(target).create(connection, checkfirst=True)
    newest = connection.execute(select(func.max(faces.c.key))).scalar_one() or 0
    connection.execute(
        insert(model_migrations).values(
            gallery_key=owner.key,
            phase="embedding",
            **{f"source_{name}": getattr(source, name) for name in ("contract", "dimension", "slot")},
            **{f"target_{name}": getattr(target, name) for name in ("contract", "dimension", "slot")},
            since_face=newest,
            crops_fit=crops_fit,
            started_at=now(),
        )
    )
    store_galleries.changed(connection, owner.key)
    return _again(connection, owner)


def turn(connection: Connection, gallery: str, phase: Phase) -> Migration:
    """Cut over, or roll back: pin the gallery to the space that the phase pins. The same again changes nothing."""
    owner = store_galleries.get(connection, gallery)
    migration = require(connection, owner)
    if migration.phase == phase:
        return migration
    if phase == "rolled_back" and migration.phase != "cut_over":
        raise Conflict(f"Gallery {gallery!r} has not been cut over; there is nothing to roll back.")
    _set_phase(connection, owner.key, phase, **({"cut_over_at": now()} if phase == "cut_over" else {}))
    turned = _again(connection, owner)
    pin = {"embedding_contract": turned.pinned.contract, "dimension": turned.pinned.dimension}
    row = update(galleries).where(galleries.c.key == owner.key)
    connection.execute(row.values(template_slot=turned.pinned.slot, **pin))
    store_galleries.changed(connection, owner.key)
    return turned


def begin_discarding(connection: Connection, gallery: str, finish: bool, leave_behind: bool) -> Migration:
    """Keep the pinned space only: the target to ``finish``, the source to abandon. ``discard_some`` does the rest."""
    owner = store_galleries.get(connection, gallery)
    migration = require(connection, owner)
    if finish != (migration.phase == "cut_over"):
        first = "cut it over first" if finish else "roll it back first"
        raise Conflict(f"The migration of gallery {gallery!r} is in phase {migration.phase}: {first}.")
    if not leave_behind:
        if finish:
            done = store_spaces.progress(connection, migration)
            left = done.persons - done.persons_moved
        else:
            left = store_spaces.only_in(connection, migration, migration.target)
        if left:
            raise Conflict(
                f"{left} persons of gallery {gallery!r} would be left without faces: they are not in the space that is "
                "kept. Enrol them again, or say leave_behind=true.",
                {"persons": left},
            )
    _set_phase(connection, owner.key, "discarding")
    store_galleries.changed(connection, owner.key)
    return migration


def discard_some(connection: Connection, gallery_key: int, after: int) -> int | None:
    """One bounded step of erasing the space that is not pinned, of faces with keys above ``after``.

    Faces that are in no other space go with it. Returns after which to go on; None when it is done.
    """
    row = connection.execute(
        select(model_migrations).where(model_migrations.c.gallery_key == gallery_key)
    ).one_or_none()
    if row is None or row.phase != "discarding":
        return None
    kept, migration = store_galleries.pinned_of(connection, gallery_key), store_spaces.of_row(row)
    gone = migration.source if kept == migration.target else migration.target
    query = select(faces.c.key).where(faces.c.gallery_key == gallery_key, faces.c.key > after)
    some = connection.execute(query.order_by(faces.c.key).limit(STEP)).scalars().all()
    if not some:
        connection.execute(delete(model_migrations).where(model_migrations.c.gallery_key == gallery_key))
        return None
    connection.execute(delete(table_of(gone)).where(table_of(gone).c.face_key.in_(some)))
    if kept == migration.target and not migration.crops_fit:
        # Of no use to the bundle that stays.
        connection.execute(delete(crops).where(crops.c.face_key.in_(some)))
    lost = _without(connection, some, kept)
    if lost:
        connection.execute(delete(faces).where(faces.c.key.in_(lost)))
        store_galleries.changed(connection, gallery_key, faces=-len(lost))
    return int(some[-1])


def discarding(connection: Connection) -> list[int]:
    """The keys of galleries of which a space is being erased."""
    query = select(model_migrations.c.gallery_key).where(model_migrations.c.phase == "discarding")
    return list(connection.execute(query).scalars())


def every(connection: Connection) -> list[tuple[str, Migration]]:
    """All migrations, with the ids of their galleries."""
    query = select(galleries.c.id, model_migrations).join(galleries, galleries.c.key == model_migrations.c.gallery_key)
    there = (model_migrations.c.phase != "discarding", galleries.c.id.is_not(None))
    return [(row.id, store_spaces.of_row(row)) for row in connection.execute(query.where(*there)).all()]


def crops_to_embed(
    connection: Connection, keys: OpenKeys, migration: Migration, after: int, limit: int
) -> tuple[list[tuple[int, int, NDArray[np.uint8]]], int | None]:
    """Face, person and crop of up to ``limit`` faces that wait, with keys above ``after``; after which to go on."""
    target = table_of(migration.target)
    query = (
        select(faces.c.key, faces.c.person_key, crops.c.sealed)
        .join(crops, crops.c.face_key == faces.c.key)
        .outerjoin(target, target.c.face_key == faces.c.key)
        .where(faces.c.gallery_key == migration.gallery_key, faces.c.key > after, target.c.face_key.is_(None))
        .order_by(faces.c.key)
        .limit(limit)
    )
    rows = connection.execute(query).all()
    found = opened(keys, migration.gallery_key, [tuple(row) for row in rows])
    return found, int(rows[-1].key) if rows else None


def require(connection: Connection, owner: GalleryRecord) -> Migration:
    """Raises Conflict where there is none."""
    migration = migration_of(connection, owner.key)
    if migration is None:
        raise Conflict(f"Gallery {owner.id!r} is not being migrated.", {"gallery": owner.id})
    return migration


def no_space(gallery: str, contract: str) -> Conflict:
    """The error for a contract that a gallery does not hold."""
    return Conflict(f"Gallery {gallery!r} has no space of contract {contract[:16]}….", {"gallery": gallery})


def _again(connection: Connection, owner: GalleryRecord) -> Migration:
    found = migration_of(connection, owner.key)
    assert found is not None
    return found


def _row_phase(connection: Connection, key: int) -> str | None:
    query = select(model_migrations.c.phase).where(model_migrations.c.gallery_key == key)
    return connection.execute(query).scalar_one_or_none()


def _set_phase(connection: Connection, key: int, phase: Phase, **more: object) -> None:
    row = update(model_migrations).where(model_migrations.c.gallery_key == key)
    connection.execute(row.values(phase=phase, **more))


def _without(connection: Connection, some: Sequence[int], space: Space) -> list[int]:
    """Those of these faces that are not in a space."""
    table = table_of(space)
    there = connection.execute(select(table.c.face_key).where(table.c.face_key.in_(some))).scalars().all()
    return sorted(set(some) - set(there))
