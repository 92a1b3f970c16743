"""One line of the log for each request: what was asked, by which key, and how it went; never what was sent."""

import logging

from starlette.types import Scope

log = logging.getLogger("likeness.request")

# Asked every few seconds by those who watch; told only if something is wrong.
QUIET = frozenset({"/v1/health/live", "/v1/health/ready", "/metrics"})


def route_of(scope: Scope) -> str:
    """The path with names in place of ids; ``none`` where there is no such path."""
    return str(getattr(scope.get("route"), "path", "none"))


def tell(scope: Scope, status: int, seconds: float) -> None:
    """Write the line of an answered request.

    Args:
        seconds: from its head to the end of its answer.
    """
    level = logging.DEBUG if scope["path"] in QUIET and status in (200, 503) else logging.INFO
    if not log.isEnabledFor(level):
        return
    state = scope.get("state", {})
    asker = state.get("asker")
    fields = {
        "request_id": state.get("request_id"),
        "method": scope["method"],
        "route": route_of(scope),
        "status": status,
        "duration_ms": round(seconds * 1000, 2),
        "key": None if asker is None else asker.actor,
    }
    words = "request {request_id}: {method} {route} {status} in {duration_ms} ms, key {key}".format(**fields)
    log.log(level, words, extra={"fields": fields})
