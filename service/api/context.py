"""Outermost layer of every request: its id, and a last answer for what nobody expected."""

import logging
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs
from service.api.errors import error_response
from service.api.request_log import route_of

log = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
# No answer is to be kept by anybody on the way, taken for something else, or shown in somebody's page.
SAFE_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
# A caller's own id is repeated in headers and logs, so it may hold nothing that could break either.
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class RequestContext:
    """Gives each request an id, the caller's own if that is sane, and sends it back with every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        logs.working_on(request_id)
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = request_id
                for name, value in SAFE_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception:
            # The path itself holds the ids of galleries and persons.
            log.exception("request %s: %s %s failed", request_id, scope["method"], route_of(scope))
            if started:
                raise
            message = "An unexpected error; the log has its trace under this request_id."
            await error_response(request_id, 500, "internal", message)(scope, receive, send_with_id)
