"""Keeping the database and the file of keys in step: what a crash or a restored backup left is settled at open.

A key is on the disk before the row of its person is, and it is destroyed after the row is gone, so:

- a key without a row is that of a person who was deleted just before a crash: it is destroyed now. Not so one with a
  number that the database has not reached: it was never used, or the database is a backup from before it was.
- a row whose key is destroyed, or is by now another person's, comes from a backup: the person was erased since, and is
  erased again.
- a row whose key was never there means that the file of keys is older than the database: nothing is touched.
"""

from collections.abc import Sequence

import numpy as np
from sqlalchemy import Connection, delete, select

from service.gallery import store_galleries
from service.gallery.backend import Differences
from service.gallery.dialects import last_person
from service.gallery.store_persons import Removed
from service.gallery.store_values import plain_rows
from service.gallery.tables import enrolments, faces, key_file, persons
from service.security.envelope import NONCE_BYTES
from service.security.key_file import LIVE, NEVER, KeyFile, KeyFileError
from service.security.person_keys import OpenKeys


def check_belongs(connection: Connection, keys: KeyFile) -> None:
    """Raises KeyFileError if the file of keys is not the one that this database was written with."""
    known = connection.execute(select(key_file.c.id)).scalars().all()
    if known != [keys.id]:
        raise KeyFileError(
            f"The keys in {keys.path} are not those of this database, so that none of its templates could be read. Put "
            f"back the file with the id {', '.join(bytes(id).hex() for id in known)}; this one is {keys.id.hex()}."
        )


def differences(connection: Connection, keys: KeyFile) -> Differences:
    """Compare every person with the slots. Raises KeyFileError if keys are missing that were never destroyed."""
    rows = plain_rows(connection.execute(select(persons.c.key, persons.c.key_name).order_by(persons.c.key)))
    keys_found, names_found = list(zip(*rows, strict=True)) or ((), ())
    numbers = np.array(keys_found, np.int64)
    names = np.frombuffer(b"".join(names_found), np.uint8).reshape(-1, NONCE_BYTES)
    slots = keys.slots()
    within = numbers <= len(slots.states)
    states = np.full(len(numbers), NEVER, np.uint8)
    states[within] = slots.states[numbers[within] - 1]
    lacking = numbers[states == NEVER]
    if len(lacking):
        raise KeyFileError(
            f"The keys of {len(lacking)} persons are not in {keys.path}: it is older than the database. Put its newest "
            "copy back; without it these persons cannot be read."
        )
    live = states == LIVE
    own = live.copy()
    own[live] = (slots.names[numbers[live] - 1] == names[live]).all(axis=1)
    # A slot with another name must be another person's key, and not a damaged one.
    keys.ciphers(numbers[~own])
    unclaimed = ~slots.clean
    unclaimed[numbers - 1] = False
    orphans = np.flatnonzero(unclaimed) + 1
    return Differences(numbers[~own].tolist(), orphans[orphans <= last_person(connection)].tolist())


def remove(connection: Connection, keys: OpenKeys, gone: Sequence[int]) -> list[tuple[int, Removed]]:
    """Delete persons by their keys, with all that is kept of them; who they were, and of which galleries (keys)."""
    removed = []
    those = persons.c.key.in_(gone)
    # Held before anybody is looked at: another replica that starts may be doing the same.
    galleries_of = select(persons.c.gallery_key).where(those).distinct().order_by(persons.c.gallery_key)
    for gallery in connection.execute(galleries_of).scalars().all():
        store_galleries.hold(connection, gallery)
    query = select(persons).where(those).order_by(persons.c.gallery_key, persons.c.key)
    for row in connection.execute(query).all():
        own = connection.execute(select(faces.c.key).where(faces.c.person_key == row.key)).scalars().all()
        here = (enrolments.c.gallery_key == row.gallery_key, enrolments.c.person == row.id)
        connection.execute(delete(enrolments).where(*here))
        connection.execute(delete(persons).where(persons.c.key == row.key))
        store_galleries.changed(connection, row.gallery_key, persons=-1, faces=-len(own))
        removed.append((row.gallery_key, Removed(row.key, sorted(own))))
    keys.remove(gone)
    return removed
