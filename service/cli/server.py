"""uvicorn's server with two things it lacks: a patient end, and no patience with callers who say nothing."""

import asyncio
import resource
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

# For the head of a request, and for what is left of a body whose answer has been given already.
HEAD_S = 20.0


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection whose next request's head has not come within ``HEAD_S``.

    uvicorn itself waits for ever for the end of a head that has begun, and for the first one of a connection. A
    connection that is kept open after an answer ends with uvicorn's own, shorter timeout.
    """

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle is None or self.cycle.response_complete:
            self._expect_head()

    def _expect_head(self) -> None:
        self._stop_timer()
        if not self.transport.is_closing():
            self._head_timer = self.loop.call_later(HEAD_S, self.transport.close)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class DrainingServer(uvicorn.Server):
    """On SIGTERM it says that it is about to stop, goes on serving for ``drain_s``, then lets what is in flight finish.

    The pause is for those who balance load: they see ``/v1/health/ready`` turn 503 while every request is still
    answered. A second signal, or SIGINT, ends the pause.
    """

    def __init__(self, config: uvicorn.Config, drain_s: float, draining: Callable[[], None]) -> None:
        super().__init__(config)
        self._drain_s, self._draining = drain_s, draining
        self._pending: tuple[int, FrameType | None, float] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._draining()
        if sig == signal.SIGTERM and self._pending is None and self._drain_s:
            self._pending = sig, frame, time.monotonic() + self._drain_s
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        if self._pending is not None and time.monotonic() >= self._pending[2]:
            super().handle_exit(*self._pending[:2])
        return await super().on_tick(counter)


def allow_many_connections() -> None:
    """As many open files as this process may have: the usual soft limit of 1,024 is a thousand idle connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def server_of(app: Any, drain_s: float, draining: Callable[[], None], **config: Any) -> DrainingServer:
    """A server for ``app``; ``config`` is uvicorn's."""
    allow_many_connections()
    return DrainingServer(
        uvicorn.Config(
            app,
            http=ImpatientProtocol,
            server_header=False,
            # Its lines go to the root logger; each request has one of ours: see service.api.request_log.
            log_config=None,
            access_log=False,
            # Connections that the kernel completes while the event loop is busy; the default of uvicorn is the same.
            backlog=2048,
            timeout_graceful_shutdown=30,
            **config,
        ),
        drain_s,
        draining,
    )
