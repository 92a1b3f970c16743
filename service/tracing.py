"""OpenTelemetry traces, where the standard ``OTEL_*`` variables ask for them; else its SDK is not even imported.

(FastAPI imports the API, which does nothing by itself, and has spans of its own with paths and messages; they are off.)
A span for each request and one for each stage of its work. None holds an id of a gallery or person, an image, an
embedding or a message of an error.
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from service import __version__
from service.errors import InvalidRequest, Unavailable

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
HTTP = "http/protobuf"
LAST_SPANS_S = 2.0


@dataclass
class _Traces:
    """OpenTelemetry's tracer; None while there are no traces."""

    tracer: Any = None


_TRACES = _Traces()


def wanted(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment asks for traces: by an endpoint, or by naming the exporter.

    Raises:
        InvalidRequest: it asks for an exporter or a protocol that is not here.
    """
    exporter = environ.get("OTEL_TRACES_EXPORTER", "")
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or exporter == "none":
        return False
    if exporter not in ("", "otlp"):
        raise InvalidRequest(f"OTEL_TRACES_EXPORTER is {exporter!r}; traces are exported with 'otlp' only.")
    if not exporter and not any(environ.get(name) for name in ENDPOINTS):
        return False
    # The first that is set, and an empty one is not: so OpenTelemetry reads them.
    name = next((name for name in PROTOCOLS if environ.get(name)), None)
    if name is not None and environ[name] != HTTP:
        raise InvalidRequest(f"{name} is {environ[name]!r}; traces are sent as {HTTP!r} only.")
    return True


def start() -> Callable[[], None]:
    """Make spans from now on, and send them in the background; what comes back sends the rest and ends it.

    Raises:
        Unavailable: OpenTelemetry is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise Unavailable(
            f"The environment asks for traces, but OpenTelemetry is not installed ({error}). Install likeness[otel]: "
            "pip install --no-deps --require-hashes -r requirements/otel.txt; or unset OTEL_EXPORTER_OTLP_ENDPOINT."
        ) from error
    about = {"service.version": __version__}
    # What is given here would win over the environment.
    if not os.environ.get("OTEL_SERVICE_NAME") and "service.name=" not in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    ):
        about["service.name"] = "likeness"
    provider: Any = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
    exporter: Any = OTLPSpanExporter()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _TRACES.tracer = provider.get_tracer("likeness", __version__)

    def stop() -> None:
        _TRACES.tracer = None
        # A collector that is not there must not hold up the end: the library would try again for ten seconds.
        ending = threading.Thread(target=provider.shutdown, name="traces", daemon=True)
        ending.start()
        ending.join(LAST_SPANS_S)
        exporter.shutdown()

    return stop


def on() -> bool:
    """Whether spans are made."""
    return _TRACES.tracer is not None


def span(name: str) -> AbstractContextManager[None]:
    """A stage of the work, as a part of what this task or thread is working on."""
    return nullcontext() if _TRACES.tracer is None else _span(name)


@contextmanager
def _span(name: str) -> Iterator[None]:
    # What the library would record of an error is its message, and messages name persons.
    with _TRACES.tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False) as current:
        try:
            yield
        except BaseException as error:
            current.set_attribute("error.type", type(error).__name__)
            raise


@contextmanager
def request_span(headers: Mapping[str, str]) -> Iterator[Any]:
    """A request, as a part of the caller's own trace if its headers name one. Only while ``on()``."""
    from opentelemetry.propagate import extract
    from opentelemetry.trace import SpanKind

    with _TRACES.tracer.start_as_current_span(
        "request",
        context=extract(headers),
        kind=SpanKind.SERVER,
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        yield current


def fail(current: Any) -> None:
    """Say of a request's span that the service, and not the caller, was at fault."""
    from opentelemetry.trace import StatusCode

    current.set_status(StatusCode.ERROR)
