"""Templates as they lie in the database: sealed, each with the key of its person and bound to its place."""

from collections.abc import Sequence

import numpy as np
from cryptography.exceptions import InvalidTag
from numpy.typing import NDArray

from service.errors import Unavailable
from service.security.envelope import NONCE_BYTES, seal, template_place
from service.security.person_keys import OpenKeys


def seal_templates(
    keys: OpenKeys,
    gallery: int,
    persons: Sequence[int],
    faces: Sequence[int],
    templates: Sequence[NDArray[np.float32]],
    slot: int = 0,
) -> list[dict[str, int | bytes]]:
    """Rows of the table of templates with this ``slot``, whose faces and persons are there already."""
    ciphers = keys.ciphers(persons)
    return [
        {
            "face_key": face,
            "sealed": seal(
                ciphers[person], template.astype("<f4").tobytes(), template_place(gallery, person, face, slot)
            ),
        }
        for person, face, template in zip(persons, faces, templates, strict=True)
    ]


def open_templates(
    keys: OpenKeys,
    gallery: int,
    persons: Sequence[int],
    faces: Sequence[int],
    sealed: Sequence[bytes],
    dimension: int,
    slot: int = 0,
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Which rows opened, bool (n,), and the templates of all, float32 (n, d).

    A row does not open when its person is being deleted by another thread at this moment: its key is gone already.

    Raises:
        Unavailable: a row is damaged, or not where it was written.
    """
    templates = np.zeros((len(sealed), dimension), "<f4")
    there = np.ones(len(sealed), np.bool_)
    if not sealed:
        return there, templates
    ciphers = keys.ciphers(persons)
    into = memoryview(templates.data).cast("B")
    size = 4 * dimension
    get = ciphers.get
    # Nothing here that could stand outside: with a million faces every microsecond is a second.
    for row, (person, face, content) in enumerate(zip(persons, faces, sealed, strict=True)):
        cipher = get(person)
        if cipher is None:
            there[row] = False
            continue
        try:
            # Into its place, which refuses another length: a copy less.
            cipher.decrypt_into(
                content[:NONCE_BYTES],
                content[NONCE_BYTES:],
                template_place(gallery, person, face, slot),
                into[row * size : (row + 1) * size],
            )
        except (InvalidTag, ValueError) as error:
            raise Unavailable(
                f"The template with the face key {face} does not open with the key of its person: the database was "
                "damaged or changed. Restore it from a backup."
            ) from error
    return there, templates.astype(np.float32, copy=False)
