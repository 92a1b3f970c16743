"""Conditions on the metadata of persons, as SQL."""

import json

from sqlalchemy import ColumnElement, Connection, Text, and_, cast, exists, func, literal, or_, select, true
from sqlalchemy.dialects.postgresql import JSONB

from service.gallery.dialects import is_postgres
from service.gallery.records import Metadata
from service.gallery.store_values import checked_metadata
from service.gallery.tables import persons


def matches(connection: Connection, wanted: Metadata | None) -> ColumnElement[bool]:
    """Persons whose metadata has all of ``wanted``. ``1`` equals ``1.0``, but neither equals ``true`` or ``"1"``."""
    if not wanted:
        return true()
    has = _contains if is_postgres(connection) else _has
    return and_(*(has(key, value) for key, value in checked_metadata(wanted).items()))


def _contains(key: str, value: str | int | float | bool) -> ColumnElement[bool]:
    """``_has`` for PostgreSQL; an index answers it."""
    stored = cast(persons.c.metadata, JSONB)
    spellings: set[str] = {json.dumps({key: value}, ensure_ascii=False)}
    if not isinstance(value, str | bool) and value == int(value):
        # A number is compared as it is written, in decimal, and large floats are not written in all their digits.
        spellings |= {json.dumps({key: number}) for number in (int(value), float(value)) if number == value}
    return or_(*(stored.op("@>", is_comparison=True)(cast(literal(spelling, Text), JSONB)) for spelling in spellings))


def _has(key: str, value: str | int | float | bool) -> ColumnElement[bool]:
    """Whether a person's metadata has ``value`` under ``key``; both are bound as parameters.

    ``json_each`` and not a path: in a path of SQLite a key with a quote cannot be written at all.
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
