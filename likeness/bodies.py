"""Request bodies: photos and fields as multipart, everything else as JSON. Built once, so that a call can be sent
again."""

import json
import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Readable(Protocol):
    """A file opened for reading bytes."""

    def read(self) -> bytes: ...


Photo = bytes | bytearray | memoryview | str | os.PathLike[str] | Readable
"""The bytes of a JPEG, PNG, WebP or BMP file, or its path, or the file, opened for reading bytes."""


@dataclass(frozen=True)
class Body:
    content: bytes
    content_type: str


def photo_bytes(photo: Photo) -> bytes:
    """The bytes of a photo.

    Raises:
        OSError: its path cannot be read.
        TypeError: it is nothing that a photo can be, such as a file opened for text.
    """
    if isinstance(photo, (str, os.PathLike)):
        return Path(photo).read_bytes()
    if isinstance(photo, (bytes, bytearray, memoryview)):
        return bytes(photo)
    content = photo.read() if isinstance(photo, Readable) else None
    if not isinstance(content, bytes):
        raise TypeError(f"A photo is bytes, a path, or a file opened for reading bytes, not {type(photo).__name__}.")
    return content


def form(photos: Iterable[tuple[str, Photo]], fields: Mapping[str, Any]) -> Body:
    """Multipart: photos under their names, then the fields that are not None; a list is sent as several fields.

    File names are not sent: they tell who is in a photo, and the service has no use for them.
    """
    boundary = uuid.uuid4().hex
    parts: list[bytes] = []
    for name, photo in photos:
        head = f'Content-Disposition: form-data; name="{name}"; filename="photo"\r\n'
        parts += [f"--{boundary}\r\n{head}Content-Type: application/octet-stream\r\n\r\n".encode(), photo_bytes(photo)]
        parts.append(b"\r\n")
    for name, value in fields.items():
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if one is not None:
                head = f'Content-Disposition: form-data; name="{name}"\r\n\r\n'
                parts.append(f"--{boundary}\r\n{head}{_text(one)}\r\n".encode())
    parts.append(f"--{boundary}--\r\n".encode())
    return Body(b"".join(parts), f"multipart/form-data; boundary={boundary}")


def json_body(fields: Mapping[str, Any]) -> Body:
    """A JSON object. NaN and infinity are refused with ValueError."""
    return Body(json.dumps(fields, allow_nan=False).encode(), "application/json")


def given(**fields: Any) -> dict[str, Any]:
    """The fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)
