"""Persons whose time is up: past their ``expires_at``, or in their gallery for longer than it keeps anybody."""

from contextlib import suppress
from datetime import datetime, timedelta

from sqlalchemy import Connection, select

from service.errors import GalleryNotFound
from service.gallery import store_galleries, store_persons
from service.gallery.store_persons import Removed
from service.gallery.tables import galleries, persons
from service.security.person_keys import OpenKeys


def due(connection: Connection, at: datetime, limit: int) -> list[tuple[str, str]]:
    """Gallery and person of up to ``limit`` persons whose time is up at ``at``."""
    joined = select(galleries.c.id, persons.c.id).join(persons, persons.c.gallery_key == galleries.c.key)
    there = galleries.c.id.is_not(None)
    found = [*connection.execute(joined.where(there, persons.c.expires_at <= at).limit(limit))]
    keeping = select(galleries.c.key, galleries.c.retention_days).where(there, galleries.c.retention_days.is_not(None))
    for key, days in connection.execute(keeping).all():
        old = (persons.c.gallery_key == key, persons.c.created_at <= at - timedelta(days=days))
        found += connection.execute(joined.where(there, *old).limit(limit)).all()
    return [(gallery, person) for gallery, person in dict.fromkeys(map(tuple, found))][:limit]


def remove_if_due(connection: Connection, keys: OpenKeys, gallery: str, person: str, at: datetime) -> Removed | None:
    """Like ``store_persons.remove``, unless the person was given more time meanwhile."""
    with suppress(GalleryNotFound):
        # Held before it is looked at: another replica may be giving the person more time just now.
        store_galleries.get(connection, gallery)
    query = (
        select(persons.c.expires_at, persons.c.created_at, galleries.c.retention_days)
        .join(galleries, persons.c.gallery_key == galleries.c.key)
        .where(galleries.c.id == gallery, persons.c.id == person)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    expired = row.expires_at is not None and row.expires_at <= at
    outlived = row.retention_days is not None and row.created_at <= at - timedelta(days=row.retention_days)
    return store_persons.remove(connection, keys, gallery, person) if expired or outlived else None
