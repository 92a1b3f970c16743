"""One kept connection of a load generator: a prepared request out, a status and a Retry-After back.

Hand-made, because a generator shares the cores with what it measures: it may not cost what a full client costs.
"""

import asyncio
import json
import ssl
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from urllib.parse import urlsplit

from service.errors import InvalidRequest, Unavailable

_LONGEST_HEAD = 64 * 1024


# Of a multipart body; what is bytes is a file.
Fields = Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True)
class Target:
    """Where requests go, and whole requests as bytes, which are sent in turn."""

    host: str
    port: int
    tls: bool
    requests: Iterator[bytes]


def target(url: str, path: str, bodies: Sequence[Fields | dict[str, object]], headers: Mapping[str, str]) -> Target:
    """POSTs of each of ``bodies`` in turn: a dictionary as JSON, fields as multipart.

    Raises:
        InvalidRequest: the address is none.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidRequest(f"{url!r} is no address of a service; give one like http://127.0.0.1:8000.")
    tls = parts.scheme == "https"
    place = f"{parts.path.rstrip('/')}{path}"
    requests = [_request(place, {"Host": parts.netloc, **headers}, body) for body in bodies]
    return Target(parts.hostname, parts.port or (443 if tls else 80), tls, cycle(requests))


def _request(path: str, headers: Mapping[str, str], body: Fields | dict[str, object]) -> bytes:
    if isinstance(body, dict):
        kind, content = "application/json", json.dumps(body).encode()
    else:
        boundary = uuid.uuid4().hex
        kind, content = f"multipart/form-data; boundary={boundary}", _multipart(body, boundary)
    lines = {"Content-Type": kind, "Content-Length": str(len(content)), **headers}
    head = f"POST {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return head.encode() + b"\r\n" + content


def _multipart(fields: Fields, boundary: str) -> bytes:
    parts = []
    for name, value in fields:
        file = '; filename="photo"' if isinstance(value, bytes) else ""
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        parts.append(head.encode() + (value if isinstance(value, bytes) else value.encode()) + b"\r\n")
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


class Connection:
    """Sends the requests of one target, one at a time."""

    def __init__(self, to: Target) -> None:
        self._to = to
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self) -> int:
        """The status of one answer.

        Raises:
            Unavailable: nobody answers, or the connection broke in the middle.
        """
        request = next(self._to.requests)
        # A connection that was idle may have been closed by the service just now; then the request is sent anew.
        for fresh in (False, True):
            reused = self._streams is not None
            try:
                if self._streams is None:
                    self._streams = await asyncio.open_connection(
                        self._to.host, self._to.port, ssl=ssl.create_default_context() if self._to.tls else None
                    )
                reader, writer = self._streams
                writer.write(request)
                return await self._answer(reader)
            except (OSError, EOFError, ValueError) as error:
                self.close()
                if fresh or not reused:
                    raise Unavailable(f"{self._to.host}:{self._to.port} does not answer: {error!r}") from error
        raise AssertionError("both tries return or raise")

    async def _answer(self, reader: asyncio.StreamReader) -> int:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status = int(head.split(" ", 2)[1])
        length = int(head.partition("\r\ncontent-length:")[2].partition("\r\n")[0] or 0)
        await reader.readexactly(length)
        if "\r\nconnection: close" in head:
            self.close()
        return status

    def close(self) -> None:
        """Give the connection up; the next request makes a new one."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
