"""Conditions on the metadata of persons, as SQL."""

import json

from sqlalchemy import ColumnElement, and_, exists, func, select, true

from service.gallery.records import Metadata
from service.gallery.store_values import checked_metadata
from service.gallery.tables import persons


def matches(wanted: Metadata | None) -> ColumnElement[bool]:
    """Persons whose metadata has all of ``wanted``. ``1`` equals ``1.0``, but neither equals ``true`` or ``"1"``."""
    if not wanted:
        return true()
    return and_(*(_has(key, value) for key, value in checked_metadata(wanted).items()))


def _has(key: str, value: str | int | float | bool) -> ColumnElement[bool]:
    """Whether a person's metadata has ``value`` under ``key``; both are bound as parameters.

    ``json_each`` and not a path: in a path of SQLite a key with a quote cannot be written at all.
    On PostgreSQL the same is ``persons.metadata @> CAST(:{key: value} AS jsonb)``, which a GIN index answers.
    """
    entry = func.json_each(persons.c.metadata).table_valued("key", "value", "type", name="entry")
    here = entry.c.key == key
    if isinstance(value, bool):
        equal = entry.c.type == json.dumps(value)
    elif isinstance(value, str):
        equal = and_(entry.c.type == "text", entry.c.value == value)
    else:
        # Parsed by SQLite like the other side: its parser may differ from Python's in the last bit.
        equal = and_(entry.c.type.in_(("integer", "real")), entry.c.value == func.json_extract(json.dumps(value), "$"))
    return exists(select(entry.c.key).where(here, equal))
