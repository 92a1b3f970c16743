"""A span for each request, where traces are wanted."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import tracing
from service.api.request_log import QUIET, route_of


class TracedRequests:
    """The outermost part of the application, as its span has the time of everything inside."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in QUIET:
            await self.app(scope, receive, send)
            return
        status = 0

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with tracing.request_span(Headers(scope=scope)) as span:
            try:
                await self.app(scope, receive, send_noting)
            finally:
                # The path itself holds the ids of galleries and persons.
                route = route_of(scope)
                span.update_name(f"{scope['method']} {route}")
                span.set_attributes(
                    {
                        "http.request.method": scope["method"],
                        "http.route": route,
                        "http.response.status_code": status,
                        "likeness.request_id": scope.get("state", {}).get("request_id", ""),
                    }
                )
                if status >= 500 or not status:
                    tracing.fail(span)
