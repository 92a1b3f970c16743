"""What ids, cursors, names and metadata have to look like. All refusals are InvalidRequest."""

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import CursorResult

from service.errors import InvalidRequest
from service.gallery.records import Metadata, Page

MAX_PAGE = 1000
MAX_TEXT = 4096  # characters of a name or description
MAX_METADATA_KEYS = 64
MAX_METADATA_BYTES = 16384  # as JSON
MAX_DIMENSION = 4096
MAX_RETENTION_DAYS = 36_500
ID_PATTERN = "[A-Za-z0-9._:-]{1,128}"
_ID = re.compile(ID_PATTERN)
T = TypeVar("T")


def now() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)


def checked_id(kind: str, value: str) -> str:
    """``value``, which must be an id; ``kind`` ("person") is named in the error."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise InvalidRequest(
            f"{value!r:.200} is not a {kind} id. Ids are 1 to 128 letters, digits or any of . _ : -", {kind: str(value)}
        )
    return value


def checked_key(value: str) -> str:
    """``value``, which must be an idempotency key: 1 to 255 printable ASCII characters."""
    if not (1 <= len(value) <= 255 and value.isascii() and value.isprintable()):
        raise InvalidRequest(f"The idempotency key {value!r:.300} is not 1 to 255 printable ASCII characters.")
    return value


def checked_text(field: str, value: str | None) -> str | None:
    """``value``, which must be text that every engine can keep."""
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > MAX_TEXT or not _storable(value):
        raise InvalidRequest(f"{field} must be at most {MAX_TEXT} characters of Unicode text without NUL.")
    return value


def checked_time(field: str, value: datetime | None) -> datetime | None:
    """``value`` in UTC; it must tell its time zone."""
    if value is None:
        return None
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidRequest(f"{field} must be a date and time with its time zone, not {value}.")
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise InvalidRequest(f"{field} is out of range: {value}.") from error


def checked_metadata(value: Metadata) -> dict[str, str | int | float | bool]:
    """``value``, which must be a flat object of text, numbers and booleans. Used for filters too."""
    if not isinstance(value, Mapping) or len(value) > MAX_METADATA_KEYS:
        raise InvalidRequest(f"metadata must be an object of at most {MAX_METADATA_KEYS} fields.")
    for key, item in value.items():
        if not isinstance(key, str) or not _storable(key):
            raise InvalidRequest(f"The metadata field name {key!r:.200} is not Unicode text without NUL.")
        if not _scalar(item):
            raise InvalidRequest(f"metadata[{key!r:.200}] must be text, a boolean or a finite number of 64 bits.")
    if len(json.dumps(dict(value), ensure_ascii=False).encode()) > MAX_METADATA_BYTES:
        raise InvalidRequest(f"metadata is larger than {MAX_METADATA_BYTES} bytes as JSON.")
    return dict(value)


def page_after(cursor: str | None) -> str:
    """The id that a page begins after; "" for the first page."""
    if cursor is None:
        return ""
    try:
        after = base64.b64decode(cursor.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise _broken(cursor) from error
    if not _ID.fullmatch(after):
        raise _broken(cursor)
    return after


def checked_limit(limit: int) -> int:
    """``limit``, which must be the size of a page."""
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidRequest(f"limit must be 1 to {MAX_PAGE}, not {limit}.", {"limit": limit})
    return limit


def page_of(rows: Sequence[Any], limit: int, record: Callable[[Any], T]) -> Page[T]:
    """A page of ``rows``, of which one more than ``limit`` was asked for, to know whether there is more."""
    kept = rows[:limit]
    more = len(rows) > limit
    cursor = base64.b64encode(kept[-1].id.encode(), altchars=b"-_").decode() if more else None
    return Page(tuple(record(row) for row in kept), cursor)


def batches(keys: Iterable[int], size: int = 500) -> Iterator[list[int]]:
    """``keys`` in lists that a statement can take as parameters."""
    rest = iter(keys)
    while batch := [int(key) for key in islice(rest, size)]:
        yield batch


def plain_rows(result: CursorResult[Any]) -> Sequence[Any]:
    """All rows as the driver gives them, for numbers and bytes: with a million rows SQLAlchemy's own are felt."""
    assert result.cursor is not None
    return result.cursor.fetchall()


def _storable(text: str) -> bool:
    # PostgreSQL keeps no NUL; a lone surrogate has no UTF-8.
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _scalar(value: object) -> bool:
    if isinstance(value, str):
        return _storable(value)
    if isinstance(value, int):  # a bool is one
        return -(2**63) <= value < 2**63
    return isinstance(value, float) and math.isfinite(value)


def _broken(cursor: str) -> InvalidRequest:
    return InvalidRequest(f"The cursor {cursor!r:.300} is broken. Use one from a page as it is, or none.")
