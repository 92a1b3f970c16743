"""Clients who say little: bodies and heads that do not come, and bodies that are too much together."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from service.api import intake
from service.api.app import create_app
from service.cli import server as module
from service.engine import Engine
from service.settings import Settings

WAIT_S = 20.0
HEAD = b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n"


@pytest.fixture
def port(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Of the application behind its real server, in a thread, with less patience than usual."""
    monkeypatch.setattr(intake, "PATIENCE_S", 0.4)
    monkeypatch.setattr(module, "HEAD_S", 0.4)
    monkeypatch.setattr(module, "allow_many_connections", lambda: None)
    app = create_app(engine, Settings(max_upload_bytes=100_000))
    server = module.server_of(app, 0.0, lambda: None, host="127.0.0.1", port=0, log_level="warning")
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + WAIT_S
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(WAIT_S)


def answer_of(client: socket.socket) -> bytes:
    """One whole answer: its head and body may come apart."""
    answer = b""
    while not (head := answer.partition(b"\r\n\r\n"))[1] or len(head[2]) < length_of(head[0]):
        more = client.recv(65536)
        assert more, f"the connection ended after {answer!r}"
        answer += more
    return answer


def length_of(head: bytes) -> int:
    return int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])


def test_a_body_that_trickles_in_is_answered_and_the_connection_closed(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as client:
        client.sendall(HEAD)
        start = time.monotonic()
        client.settimeout(0.05)
        answer = b""
        while not answer:
            assert time.monotonic() - start < WAIT_S
            client.sendall(b"x")
            try:
                answer = client.recv(65536)
            except TimeoutError:
                continue
        client.settimeout(WAIT_S)
        while more := client.recv(65536):
            answer += more
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert b"connection: close" in head.lower()
    error = json.loads(body)["error"]
    assert error["code"] == "invalid_request"
    assert "bytes of the body came within" in error["message"]


@pytest.mark.parametrize("begun", [b"", b"GET /v1/health/live HTTP/1.1\r\nHost:"])
def test_a_head_that_does_not_come_ends_the_connection(port: int, begun: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as client:
        client.sendall(begun)
        start = time.monotonic()
        assert client.recv(100) == b""
        assert time.monotonic() - start > 0.2
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as client:
        for _ in range(3):  # one who asks is not disturbed
            client.sendall(b"GET /v1/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert answer_of(client).startswith(b"HTTP/1.1 200")
            time.sleep(0.25)


def test_uploads_that_are_too_much_together_are_refused_and_their_memory_comes_back(port: int) -> None:
    def send(size: int) -> tuple[socket.socket, bytes]:
        client = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
        client.sendall(HEAD.replace(b"60000", str(size).encode()))
        return client, b"{" * size

    with ExitStack() as stack:
        first, body = send(60_000)
        stack.enter_context(first)
        first.sendall(body[:59_000])
        time.sleep(0.1)
        second, more = send(60_000)
        stack.enter_context(second)
        second.sendall(more)
        assert answer_of(second).startswith(b"HTTP/1.1 429")
        first.sendall(body[59_000:])
        assert b"The body is not JSON" in answer_of(first)
        # All of it is free again.
        third, more = send(90_000)
        stack.enter_context(third)
        third.sendall(more)
        assert b"The body is not JSON" in answer_of(third)
