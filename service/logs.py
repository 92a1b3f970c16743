"""How the log is written: plain lines, or one JSON object a line. Each names the request that it belongs to."""

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

Format = Literal["text", "json"]

_REQUEST: ContextVar[str] = ContextVar("request_id")


def working_on(request_id: str) -> None:
    """From here on what this task, and every thread and task it starts, logs belongs to this request."""
    _REQUEST.set(request_id)


def write_as(format: Format) -> None:
    """Write all that goes to the root logger's handlers in this format."""
    formatter = JsonLines() if format == "json" else TextLines("%(levelname)s %(message)s")
    for handler in logging.getLogger().handlers:
        handler.setFormatter(formatter)
        handler.addFilter(tells_something)


def tells_something(record: logging.LogRecord) -> bool:
    """All but what Alembic says of itself each time; that it changes the tables is told."""
    return record.name != "alembic.runtime.migration" or record.msg.startswith("Running")


class TextLines(logging.Formatter):
    """A plain line; the request's id is added to what does not name it."""

    def format(self, record: logging.LogRecord) -> str:
        line, request_id = super().format(record), _REQUEST.get("")
        return line if not request_id or request_id in line else f"{line} (request {request_id})"


class JsonLines(logging.Formatter):
    """``time`` (UTC), ``level``, ``logger``, ``message``, and ``request_id``, ``exception`` and fields where there are
    any."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := _REQUEST.get(""):
            line["request_id"] = request_id
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)
