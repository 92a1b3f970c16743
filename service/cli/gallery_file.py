"""A gallery as a file, NDJSON in UTF-8: a header, one line a person with the templates, and a trailer.

::

    {"format": "likeness-gallery", "version": 1, "gallery", "name", "description", "embedding_contract",
     "embedding_dimension", "created_at"}              the gallery's own fields
    {"person_id", "name", "metadata", "expires_at", "created_at", "faces": [{"face_id", "embedding", …}]}
    …                                                  see ``service.api.bulk_schemas``
    {"persons", "faces", "sha256"}                     how many there are; digest of all lines above

A file that was cut off has no trailer as its last line, one that was changed another digest: both are refused. A
file with a name that ends in ``.gz`` is compressed.
"""

import gzip
import hashlib
import json
import os
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from service.api.bulk_schemas import BulkPersonBody
from service.errors import InvalidRequest, UnusableInput

Line = TypeVar("Line", bound=BaseModel)


class Header(BaseModel):
    """The first line: what it is, and the gallery's own fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["likeness-gallery"] = "likeness-gallery"
    version: Literal[1] = 1
    gallery: str
    name: str | None
    description: str | None
    embedding_contract: str
    embedding_dimension: int
    created_at: str


class Trailer(BaseModel):
    """The last line."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    persons: int
    faces: int
    sha256: str


@dataclass(frozen=True)
class PersonLine:
    """A line of a person: its number in the file, its bytes without the line's end, and what they say."""

    number: int
    content: bytes
    person: BulkPersonBody


class Writer:
    """Writes a gallery to a stream, line by line."""

    def __init__(self, stream: IO[bytes], header: Header) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self.persons = self.faces = 0
        self._line(header.model_dump())

    def person(self, person: Mapping[str, Any]) -> None:
        """``person`` as an export of the service gives it."""
        self._line(person)
        self.persons += 1
        self.faces += len(person["faces"])

    def finish(self) -> None:
        """The trailer; nothing comes after it."""
        self._line({"persons": self.persons, "faces": self.faces, "sha256": self._digest.hexdigest()})

    def _line(self, value: Mapping[str, Any]) -> None:
        line = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        self._digest.update(line)
        self._stream.write(line)


class Reader:
    """Reads a gallery from a stream and checks it on the way; ``name`` stands for the stream in errors.

    ``header`` is there at once, ``trailer`` when ``persons`` has come to its end.

    Raises, as do its methods:
        UnusableInput: it is no such file, or cut off, or was changed.
    """

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._name = name
        self._digest = hashlib.sha256()
        self._lines = self._numbered(stream)
        number, line = next(self._lines, (1, b""))
        self.header = self._parsed(Header, "header", number, line)
        self._digest.update(line)
        self.trailer: Trailer | None = None

    def persons(self) -> Iterator[PersonLine]:
        """The persons. Nothing is vouched for before the last one has come."""
        persons = faces = 0
        number, line = next(self._lines, (2, b""))
        for following in self._lines:
            person = self._parsed(BulkPersonBody, "person", number, line)
            yield PersonLine(number, line.rstrip(b"\n"), person)
            persons, faces = persons + 1, faces + len(person.faces)
            self._digest.update(line)
            number, line = following
        self.trailer = self._parsed(Trailer, "trailer", number, line)
        if self.trailer != Trailer(persons=persons, faces=faces, sha256=self._digest.hexdigest()):
            raise UnusableInput(f"{self._name} was changed or damaged: its content is not what its last line says.")

    def _numbered(self, stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
        try:
            yield from enumerate(stream, 1)
        except (OSError, EOFError, zlib.error) as error:  # gzip says OSError for a wrong checksum
            raise UnusableInput(f"{self._name} cannot be read, or is cut off or damaged: {error}") from error

    def _parsed(self, kind: type[Line], what: str, number: int, line: bytes) -> Line:
        try:
            return kind.model_validate_json(line)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UnusableInput(
                f"{self._name}: line {number} is not a {what} "
                f"({where}{': ' if where else ''}{first['msg']}). Was it cut off, or is it another file?"
            ) from error


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Read a file, or standard input for ``-``. Raises InvalidRequest."""
    if str(path) == "-":
        yield sys.stdin.buffer
        return
    try:
        raw = path.open("rb")
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from error
    with raw, gzip.open(raw) if path.suffix == ".gz" else nullcontext(raw) as stream:
        yield cast(IO[bytes], stream)


@contextmanager
def created(path: Path) -> Iterator[IO[bytes]]:
    """Write a file that appears under its name when the block has ended well, or standard output for ``-``.

    Only its owner may read it: templates are biometric data. What is there and no file (a pipe, a device) is refused.
    Raises InvalidRequest.
    """
    if str(path) == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if path.exists() and not path.is_file():
        raise InvalidRequest(f"{path} is there and is no file. Name a file, or - for standard output.")
    beside = None
    try:
        # Made with mode 0600.
        descriptor, beside = tempfile.mkstemp(".part", f".{path.name}.", path.parent)
        with os.fdopen(descriptor, "wb") as raw:
            with gzip.GzipFile("", "wb", 1, raw, 0) if path.suffix == ".gz" else nullcontext(raw) as stream:
                yield cast(IO[bytes], stream)
            raw.flush()
            os.fsync(raw)
        Path(beside).replace(path)
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be written: {error.strerror}") from error
    finally:
        if beside is not None:
            Path(beside).unlink(missing_ok=True)
