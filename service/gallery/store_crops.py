"""Aligned faces beside their templates, sealed with the same keys; kept only where an operator asks for it."""

import contextlib
from collections.abc import Sequence

import numpy as np
from cryptography.exceptions import InvalidTag
from numpy.typing import NDArray
from sqlalchemy import Connection, insert, select

from service.errors import InvalidRequest, Unavailable
from service.gallery import store_galleries, store_persons
from service.gallery.records import NewFace
from service.gallery.tables import crops, faces
from service.security.envelope import crop_place, seal, unseal
from service.security.person_keys import OpenKeys

SHAPE = (112, 112, 3)


def add(
    connection: Connection, keys: OpenKeys, gallery: int, person: int, made: Sequence[int], new: Sequence[NewFace]
) -> None:
    """Keep the crops of those of ``new`` that have one; ``made`` are the keys of all of them."""
    kept = [(face, given.crop) for face, given in zip(made, new, strict=True) if given.crop is not None]
    if not kept:
        return
    cipher = keys.ciphers([person])[person]
    rows = []
    for face, crop in kept:
        if crop.shape != SHAPE or crop.dtype != np.uint8:
            raise InvalidRequest(f"A crop must be uint8 {SHAPE}; this one is {crop.dtype} {crop.shape}.")
        rows.append({"face_key": face, "sealed": seal(cipher, crop.tobytes(), crop_place(gallery, person, face))})
    connection.execute(insert(crops), rows)


def opened(
    keys: OpenKeys, gallery: int, rows: Sequence[tuple[int, int, bytes]]
) -> list[tuple[int, int, NDArray[np.uint8]]]:
    """Face, person and crop, uint8 (112, 112, 3), of rows of face, person and sealed crop.

    One that does not open is left out: it is damaged, or its person is being deleted at this moment.
    """
    ciphers = keys.ciphers([person for _, person, _ in rows])
    found = []
    for face, person, sealed in rows:
        with contextlib.suppress(InvalidTag, KeyError):
            content = unseal(ciphers[person], sealed, crop_place(gallery, person, face))
            found.append((face, person, np.frombuffer(content, np.uint8).reshape(SHAPE)))
    return found


def of_person(connection: Connection, keys: OpenKeys, gallery: str, person: str) -> dict[str, NDArray[np.uint8]]:
    """See ``Store.crops``."""
    owner = store_galleries.get(connection, gallery).key
    person_key = store_persons.get(connection, gallery, person).key
    query = select(faces.c.id, faces.c.key, crops.c.sealed).join(crops, crops.c.face_key == faces.c.key)
    rows = connection.execute(query.where(faces.c.person_key == person_key)).all()
    cipher = keys.cipher(person_key)
    if cipher is None:
        raise store_persons.missing(gallery, person)
    try:
        return {
            row.id: np.frombuffer(unseal(cipher, row.sealed, crop_place(owner, person_key, row.key)), np.uint8).reshape(
                SHAPE
            )
            for row in rows
        }
    except InvalidTag as error:
        raise Unavailable(f"A crop of the person {person!r} is damaged. Restore the database from a backup.") from error
