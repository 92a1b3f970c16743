"""Between JSON and frozen dataclasses, by the types of their fields.

A field that the service adds later is passed over, one with a default may be missing; anything else that does not fit
is a ``TypeError``, ``ValueError`` or ``KeyError``, which the transport takes for an answer of somebody else.
"""

import base64
import dataclasses
import struct
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Vector = tuple[float, ...]
"""An embedding. On the wire it is base64 of little-endian float32, which gives the same numbers to the last bit."""

T = TypeVar("T")


def parse(kind: type[T], value: Any) -> T:
    """The dataclass ``kind`` of a JSON object."""
    result = _convert(kind, value)
    assert isinstance(result, kind)
    return result


def to_json(value: Any) -> Any:
    """What ``parse`` takes, of a dataclass; vectors as base64, fields that are None left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints = _hints(type(value))
        fields = {name: (getattr(value, name), kind) for name, kind in hints.items()}
        return {
            name: encode_vector(inner) if kind == Vector else to_json(inner)
            for name, (inner, kind) in fields.items()
            if inner is not None
        }
    if isinstance(value, Mapping):
        return {str(name): to_json(inner) for name, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(inner) for inner in value]
    return time_to_json(value) if isinstance(value, datetime) else value


def time_to_json(value: datetime) -> str:
    if value.tzinfo is None:
        raise ValueError(f"{value.isoformat()} has no time zone; make it aware, as datetime.now(timezone.utc) is.")
    return value.isoformat()


def encode_vector(vector: Iterable[float]) -> str:
    numbers = [float(number) for number in vector]
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def _decode_vector(text: str) -> Vector:
    content = base64.b64decode(text, validate=True)
    if len(content) % 4:
        raise ValueError(f"{len(content)} bytes are no float32 numbers")
    return struct.unpack(f"<{len(content) // 4}f", content)


def _convert(kind: Any, value: Any) -> Any:
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _object(kind, value)
    if kind == Vector and isinstance(value, str):
        return _decode_vector(value)
    if kind is datetime:
        return datetime.fromisoformat(value)
    if kind is float and type(value) is int:
        return float(value)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple:
        return _tuple(inner, value)
    if origin in (Union, UnionType):
        return _one_of(inner, value)
    if origin is Literal:
        # A decision that is added later must not make the rest of the answer unreadable.
        return _convert(str, value)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise TypeError(f"{value!r:.100} is no object")
        return {name: _convert(inner[1], part) for name, part in value.items()}
    if type(value) is not kind:
        raise TypeError(f"{value!r:.100} is no {kind.__name__}")
    return value


def _object(kind: Any, value: Any) -> Any:
    hints = _hints(kind)
    given = {name: _convert(hints[name], part) for name, part in value.items() if name in hints}
    return kind(**given)


def _tuple(inner: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.100} is no list")
    if len(inner) == 2 and inner[1] is ...:
        return tuple(_convert(inner[0], part) for part in value)
    return tuple(_convert(part_kind, part) for part_kind, part in zip(inner, value, strict=True))


def _one_of(kinds: tuple[Any, ...], value: Any) -> Any:
    if value is None and NoneType in kinds:
        return None
    others = [kind for kind in kinds if kind is not NoneType]
    if len(others) == 1:
        return _convert(others[0], value)
    if type(value) not in others:
        raise TypeError(f"{value!r:.100} is none of {', '.join(kind.__name__ for kind in others)}")
    return value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)
