"""Who asks: their deadline, their share, whether they are still there; and how long each answer took."""

import time
from collections.abc import Callable

import anyio
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import metrics
from service.api import request_log
from service.api.intake import Intake
from service.runtime.caller import Caller, work_for

TIMEOUT = "x-request-timeout-ms"
_WITHOUT_BODY = ("GET", "HEAD", "OPTIONS")
# What nobody reads has no status; proxies call it so.
_CALLER_LEFT = 499


def tenant_of(scope: Scope) -> str:
    """Whose share of the service a request uses: the address it comes from."""
    client = scope.get("client")
    return str(client[0]) if client else ""


class CallerContext:
    """Tells the work behind a request how long it may take, and stops it when the caller leaves."""

    def __init__(self, app: ASGIApp, intake: Intake, timeout_s: float) -> None:
        """
        Args:
            timeout_s: how long a request may take; callers may ask for less with ``x-request-timeout-ms``.
        """
        self.app, self._intake, self._timeout_s = app, intake, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), _CALLER_LEFT
        caller = Caller(tenant_of(scope), time.monotonic() + self._timeout_of(scope))
        answered = False

        async def send_noting(message: Message) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status = message["status"]
            elif not message.get("more_body", False):
                answered = True
            await send(message)

        async def run() -> None:
            if scope["method"] in _WITHOUT_BODY:
                await self.app(scope, receive, send_noting)
            else:
                await self._run_while_there(caller, scope, receive, send_noting, lambda: answered)

        work_for(caller)
        try:
            await run()
        except BaseException:
            status = 500 if status == _CALLER_LEFT and not caller.left else status
            raise
        finally:
            self._intake.release(caller.held_bytes)
            if caller.left:
                metrics.REFUSED.labels("caller_left").inc()
            status, taken = _CALLER_LEFT if caller.left else status, time.perf_counter() - start
            route = request_log.route_of(scope)
            metrics.REQUESTS.labels(route, str(status)).inc()
            metrics.REQUEST_SECONDS.labels(route).observe(taken)
            request_log.tell(scope, status, taken)

    async def _run_while_there(
        self, caller: Caller, scope: Scope, receive: Receive, send: Send, answered: Callable[[], bool]
    ) -> None:
        """Run the application; when the connection is lost, cancel it. What runs in a thread ends at its next step."""
        body_read = anyio.Event()
        failure: Exception | None = None

        async def receive_noting() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect":
                caller.left = True
            elif not message.get("more_body", False):
                body_read.set()
            return message

        async with anyio.create_task_group() as group:

            async def watch() -> None:
                await body_read.wait()
                while (await receive())["type"] != "http.disconnect":
                    pass
                if not answered():
                    caller.left = True
                    group.cancel_scope.cancel()

            group.start_soon(watch)
            try:
                await self.app(scope, receive_noting, send)
            except Exception as error:
                failure = error
            group.cancel_scope.cancel()
        if failure is not None and not (caller.left and isinstance(failure, ClientDisconnect)):
            raise failure

    def _timeout_of(self, scope: Scope) -> float:
        asked = Headers(scope=scope).get(TIMEOUT, "")
        return min(self._timeout_s, int(asked) / 1000) if asked.isdecimal() and len(asked) < 10 else self._timeout_s
