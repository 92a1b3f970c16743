"""The real server with a collector of OpenTelemetry beside it, which is told what was done and not to whom."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service.cli.main import EXIT_UNAVAILABLE, EXIT_WRONG_USE, main
from service.errors import InvalidRequest
from service.tracing import wanted
from tests.served import answering

OTLP = "opentelemetry.proto.collector.trace.v1.trace_service_pb2"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@dataclass
class Collector:
    """What takes traces over HTTP, as an OpenTelemetry collector does."""

    url: str = ""
    bodies: list[bytes] = field(default_factory=list)
    types: set[str] = field(default_factory=set)


@pytest.fixture
def collector() -> Iterator[Collector]:
    collected = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collected.types.add(f"{self.path} {self.headers['content-type']}")
            collected.bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with answering(Handler) as url:
        collected.url = url
        yield collected


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER"):
        monkeypatch.delenv(name, raising=False)


def attributes(of: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in of.attributes}


def test_a_request_is_a_trace_of_its_stages_and_names_nobody(
    served: Callable[..., AbstractContextManager[Any]],
    collector: Collector,
    data_dir: Path,
    tmp_path: Path,
    astronaut: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    otlp = pytest.importorskip(OTLP, reason="likeness[otel] is not installed")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    # FastAPI's own spans would have the paths.
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    with served(data_dir, tmp_path, "--drain-s", "0") as server, httpx2.Client(base_url=f"{server.url}/v1") as http:
        headers = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "x-request-id": "r-1"}
        files = {"image_a": astronaut, "image_b": astronaut}
        assert http.post("/verify", files=files, headers=headers).status_code == 200
        person = "/galleries/g-secret/persons/p-secret"
        http.put("/galleries/g-secret")
        http.put(person, json={"name": "n-secret"})
        assert http.post(f"{person}/faces", files=[("images", astronaut)]).status_code == 201
        assert http.post("/galleries/g-secret/search", files={"image": astronaut}).status_code == 200
        assert http.get("/galleries/g-secret/persons/x-secret").status_code == 404
        server.process.terminate()
        assert server.process.wait(20) == 0
    assert collector.types == {"/v1/traces application/x-protobuf"}
    assert not [body for body in collector.bodies if b"-secret" in body or b"n-secret" in body]
    requests = [otlp.ExportTraceServiceRequest.FromString(body) for body in collector.bodies]
    resources = [resource for request in requests for resource in request.resource_spans]
    about = attributes(resources[0].resource)
    assert (about["service.name"], about["deployment.environment"]) == ("likeness", "test")
    spans = [span for resource in resources for scope in resource.scope_spans for span in scope.spans]
    [verify] = [span for span in spans if span.name == "POST /v1/verify"]
    assert (verify.trace_id.hex(), verify.parent_span_id.hex()) == (TRACE, "00f067aa0ba902b7")
    told = attributes(verify)
    assert told["likeness.request_id"] == "r-1"
    assert (told["http.route"], told["http.response.status_code"]) == ("/v1/verify", 200)
    stages = [span for span in spans if span.parent_span_id == verify.span_id]
    assert sorted(span.name for span in stages) == sorted(2 * ["decode", "detect", "align", "embed"])
    inside = verify.start_time_unix_nano, verify.end_time_unix_nano
    assert all(inside[0] <= s.start_time_unix_nano <= s.end_time_unix_nano <= inside[1] for s in stages)
    [search] = [span for span in spans if span.name == "POST /v1/galleries/{gallery}/search"]
    assert "search" in [span.name for span in spans if span.parent_span_id == search.span_id]
    [missing] = [span for span in spans if span.name == "GET /v1/galleries/{gallery}/persons/{person}"]
    assert missing.status.code == 0, "the caller's fault is none of the service's"
    assert not [span.name for span in spans if "health" in span.name]


def test_a_collector_that_is_not_there_costs_nothing(
    served: Callable[..., AbstractContextManager[Any]],
    data_dir: Path,
    tmp_path: Path,
    astronaut: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip(OTLP, reason="likeness[otel] is not installed")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:9/v1/traces")
    with served(data_dir, tmp_path, "--drain-s", "0") as server:
        start = time.monotonic()
        for _ in range(3):
            assert httpx2.post(f"{server.url}/v1/detect", files={"image": astronaut}).status_code == 200
        assert time.monotonic() - start < 5
        start = time.monotonic()
        server.process.terminate()
        assert server.process.wait(20) == 0
        assert time.monotonic() - start < 6


def test_without_the_variables_the_sdk_is_not_imported() -> None:
    code = (
        "import sys; from service.cli.main import parser; parser(); import service.api.app;"
        "sys.exit(any(name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_variables_are_read_as_opentelemetry_reads_them() -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    assert not wanted({})
    assert not wanted({"OTEL_EXPORTER_OTLP_ENDPOINT": ""})
    assert not wanted({**endpoint, "OTEL_TRACES_EXPORTER": "none"})
    assert wanted({"OTEL_TRACES_EXPORTER": "otlp"})
    # Empty is not set, and the one for traces goes before the one for everything.
    assert wanted({**endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": ""})
    of_all, of_traces = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}
    assert wanted({**endpoint, **of_all, **of_traces})
    with pytest.raises(InvalidRequest, match="OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'"):
        wanted({**endpoint, **of_all})


def test_what_is_asked_for_is_there_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    serve = ["serve", "--data-dir", str(tmp_path)]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    assert main(serve) == EXIT_WRONG_USE
    assert "'http/protobuf' only" in capsys.readouterr().err
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_PROTOCOL")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    assert main(serve) == EXIT_WRONG_USE
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    assert main(serve) == EXIT_UNAVAILABLE
    assert "likeness[otel]" in capsys.readouterr().err
    assert main(["doctor", "--system", "--data-dir", str(tmp_path), "--port", "0"]) == 1
    assert "fail traces" in capsys.readouterr().out
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert main(serve) == EXIT_UNAVAILABLE
    assert "no bundle" in capsys.readouterr().err
