"""One kept connection of a load generator: a prepared request out, a status and a Retry-After back.

Hand-made, because a generator shares the cores with what it measures: it may not cost what a full client costs.
"""

import asyncio
import ssl
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from service.errors import InvalidRequest, Unavailable

_LONGEST_HEAD = 64 * 1024


@dataclass(frozen=True)
class Target:
    """Where requests go, and one whole request as bytes."""

    host: str
    port: int
    tls: bool
    request: bytes


def target(url: str, path: str, fields: Sequence[tuple[str, str | bytes]], headers: Mapping[str, str]) -> Target:
    """A multipart POST of ``fields``; those that are bytes are files.

    Raises:
        InvalidRequest: the address is none.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidRequest(f"{url!r} is no address of a service; give one like http://127.0.0.1:8000.")
    boundary = uuid.uuid4().hex
    body = b""
    for name, value in fields:
        file = isinstance(value, bytes)
        disposition = f'form-data; name="{name}"' + ('; filename="photo"' if file else "")
        content = value if isinstance(value, bytes) else value.encode()
        body += f"--{boundary}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + content + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    lines = {
        "Host": parts.netloc,
        "Content-Type": f"multipart/form-data; boundary={boundary}",
        "Content-Length": str(len(body)),
        **headers,
    }
    head = f"POST {parts.path.rstrip('/')}{path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())
    tls = parts.scheme == "https"
    return Target(parts.hostname, parts.port or (443 if tls else 80), tls, head.encode() + b"\r\n" + body)


class Connection:
    """Sends the request of one target again and again, one at a time."""

    def __init__(self, to: Target) -> None:
        self._to = to
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self) -> int:
        """The status of one answer.

        Raises:
            Unavailable: nobody answers, or the connection broke in the middle.
        """
        # A connection that was idle may have been closed by the service just now; then the request is sent anew.
        for fresh in (False, True):
            reused = self._streams is not None
            try:
                if self._streams is None:
                    self._streams = await asyncio.open_connection(
                        self._to.host, self._to.port, ssl=ssl.create_default_context() if self._to.tls else None
                    )
                reader, writer = self._streams
                writer.write(self._to.request)
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
