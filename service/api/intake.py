"""Reads request bodies: never more than allowed, never for ever, and all of them together within a bound.

An upload holds no thread and no place in a queue, so a thousand slow ones cost only their connections.
"""

import time
from collections.abc import AsyncGenerator

import anyio
from fastapi import Request

from service import metrics
from service.api.errors import TooSlow
from service.errors import ImageTooLarge, Overloaded
from service.runtime.caller import current

# A body may take PATIENCE_S, and for what has come so far as long as SLOWEST bytes a second would take.
PATIENCE_S, SLOWEST = 15.0, 16 * 1024


class Intake:
    """All bodies in memory, of one event loop. Given back by ``release`` when their request has been answered."""

    def __init__(self, max_body_bytes: int, max_bytes: int) -> None:
        """
        Args:
            max_body_bytes: of one body.
            max_bytes: of all bodies together.
        """
        self.max_body_bytes, self._max_bytes = max_body_bytes, max_bytes
        self._held = 0

    def release(self, held_bytes: int) -> None:
        """A request has been answered that had so many bytes."""
        self._held -= held_bytes
        metrics.HELD_BYTES.set(self._held)

    async def chunks(self, request: Request) -> AsyncGenerator[bytes, None]:
        """The body's chunks.

        Raises:
            ImageTooLarge: at its announced length, or at the first byte too many.
            TooSlow: it comes more slowly than ``SLOWEST``.
            Overloaded: there is no memory left for it.
        """
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self.max_body_bytes:
            raise self._too_large()
        caller, start, received = current(), time.monotonic(), 0
        stream = request.stream()
        while True:
            patience = start + PATIENCE_S + received / SLOWEST - time.monotonic()
            try:
                with anyio.fail_after(patience):
                    chunk = await anext(stream, None)
            except TimeoutError:
                raise TooSlow(
                    f"Only {received:,} bytes of the body came within {time.monotonic() - start:.0f} s."
                ) from None
            if chunk is None:
                return
            received += len(chunk)
            if received > self.max_body_bytes:
                raise self._too_large()
            if self._held + len(chunk) > self._max_bytes:
                raise Overloaded("Too many uploads at once; try again later.", {"retry_after_s": 1})
            self._held += len(chunk)
            caller.held_bytes += len(chunk)
            metrics.HELD_BYTES.set(self._held)
            yield chunk

    def _too_large(self) -> ImageTooLarge:
        return ImageTooLarge(
            f"The request body has more than the {self.max_body_bytes:,} bytes that are accepted.",
            {"max_body_bytes": self.max_body_bytes},
        )
