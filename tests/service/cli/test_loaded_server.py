"""The real server under load: what it refuses, whom it drops, how it ends, and who cannot slow it down."""

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.load.connection import Connection, Target, target
from service.load.generator import closed_loop, open_loop

WAIT_S = 30.0
WAITING = 6


@pytest.fixture(scope="module")
def server(
    served: Callable[..., AbstractContextManager[Any]], data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """One with a short queue."""
    folder = tmp_path_factory.mktemp("loaded")
    with served(data_dir, folder, "--max-waiting", str(WAITING)) as running:
        yield running


@pytest.fixture(scope="module")
def portrait(astronaut: bytes) -> bytes:
    return astronaut


def detect(server: Any, photo: bytes, **headers: str) -> Target:
    return target(server.url, "/v1/detect", [[("image", photo)]], headers)


def metric(server: Any, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    text = httpx2.get(f"{server.url}/metrics").raise_for_status().text
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples if s.name == name]
    return sum(s.value for s in samples if labels.items() <= s.labels.items())


def until(condition: Callable[[], bool], why: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, why
        time.sleep(0.02)


def idle(server: Any) -> bool:
    return not metric(server, "likeness_queue_length") and not metric(server, "likeness_held_bytes")


def whole_answer(connection: socket.socket) -> str:
    """Head and body may come apart."""
    answer = ""
    while not answer.endswith("}"):
        more = connection.recv(65536)
        assert more, f"the connection ended after {answer!r}"
        answer += more.decode("latin-1")
    return answer


def opened(server: Any) -> socket.socket:
    parts = urlsplit(server.url)
    assert parts.hostname is not None
    return socket.create_connection((parts.hostname, parts.port), timeout=WAIT_S)


def test_beyond_its_capacity_it_answers_200_or_429_and_recovers(server: Any, group_photo: bytes) -> None:
    outcome = asyncio.run(closed_loop(detect(server, group_photo), 40, 4.0, retry_s=0.05))
    assert set(outcome.statuses) == {200, 429}
    assert min(outcome.statuses.values()) > 5
    refusal = None
    with ExitStack() as stack:
        crowd = [stack.enter_context(opened(server)) for _ in range(40)]
        request = next(detect(server, group_photo).requests)
        for connection in crowd:
            connection.sendall(request)
        answers = [whole_answer(connection) for connection in crowd]
    statuses = [answer.split(" ")[1] for answer in answers]
    refusal = answers[statuses.index("429")].lower()
    assert int(refusal.partition("retry-after: ")[2].split("\r\n")[0]) >= 1
    assert '"code":"overloaded"' in refusal
    # The queue is what it was made for, and everybody else was told at once.
    assert statuses.count("200") >= WAITING
    until(lambda: idle(server), "the queue is not empty after the load")
    assert asyncio.run(closed_loop(detect(server, group_photo), 1, 0.5)).statuses.keys() == {200}
    assert metric(server, "likeness_refused_total", reason="overloaded") > 0


def test_whoever_leaves_is_dropped_before_their_photo_costs_anything(server: Any, group_photo: bytes) -> None:
    decoded = metric(server, "likeness_stage_seconds_count", stage="decode")
    left = metric(server, "likeness_refused_total", reason="caller_left")
    request = next(detect(server, group_photo).requests)
    for _ in range(3):
        crowd = [opened(server) for _ in range(6)]
        for connection in crowd:
            connection.sendall(request)
        until(lambda: metric(server, "likeness_queue_length", queue="photos") > 0, "nobody waits")
        for connection in crowd:
            connection.close()
        until(lambda: idle(server), "those who left are still in the queue")
    dropped = metric(server, "likeness_refused_total", reason="caller_left") - left
    worked = metric(server, "likeness_stage_seconds_count", stage="decode") - decoded
    assert dropped > 0
    assert worked < 18


def test_a_deadline_is_kept(server: Any, group_photo: bytes) -> None:
    impatient = httpx2.post(
        f"{server.url}/v1/detect",
        files={"image": group_photo},
        headers={"x-request-timeout-ms": "1"},
        timeout=WAIT_S,
    )
    assert impatient.status_code == 503
    assert impatient.json()["error"]["code"] == "deadline_exceeded"
    assert httpx2.post(
        f"{server.url}/v1/detect",
        files={"image": group_photo},
        headers={"x-request-timeout-ms": "20000"},
        timeout=WAIT_S,
    ).is_success


def test_slow_idle_and_silent_clients_slow_nobody(server: Any, portrait: bytes) -> None:
    request = next(detect(server, portrait).requests)

    def median() -> float:
        found = sorted(asyncio.run(closed_loop(detect(server, portrait), 2, 2.0)).latencies)
        assert found
        return found[len(found) // 2]

    before, stop = median(), threading.Event()
    with ExitStack() as stack:
        # More than the server has threads, places in the queue, or both.
        crowd = [stack.enter_context(opened(server)) for _ in range(300)]
        trickling, halfway, silent = crowd[:50], crowd[50:150], crowd[150:]
        for connection in trickling:
            connection.sendall(request[:1000])
        for connection in halfway:
            connection.sendall(b"POST /v1/detect HTTP/1.1\r\nHost: x\r\n")

        def trickle() -> None:
            place = 1000
            while not stop.wait(0.2):
                for connection in trickling:
                    connection.sendall(request[place : place + 1])
                place += 1

        thread = threading.Thread(target=trickle)
        thread.start()
        during = median()
        stop.set()
        thread.join()
        # One of them changes their mind, and is served like anybody else.
        silent[0].sendall(request)
        assert silent[0].recv(100).startswith(b"HTTP/1.1 200")
    assert metric(server, "likeness_refused_total", reason="rate_limited") == 0
    # Far from what a held place or thread would do; a factor for what else the machine has to do.
    assert during < 5 * before + 0.05


def test_on_sigterm_it_is_no_longer_ready_finishes_what_it_has_and_ends(
    served: Callable[..., AbstractContextManager[Any]], data_dir: Path, tmp_path: Path, group_photo: bytes
) -> None:
    with served(data_dir, tmp_path, "--drain-s", "1") as server:
        statuses: list[int] = []

        async def load() -> None:
            to = detect(server, group_photo)
            connections = [Connection(to) for _ in range(8)]
            asks = [asyncio.create_task(connection.ask()) for connection in connections]
            await asyncio.sleep(0.3)
            server.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.3)
            # Still listening, and saying that it is about to stop.
            ready = await asyncio.to_thread(httpx2.get, f"{server.url}/v1/health/ready")
            assert ready.status_code == 503
            assert (await asyncio.to_thread(httpx2.get, f"{server.url}/v1/health/live")).status_code == 200
            statuses.extend(await asyncio.gather(*asks))
            for connection in connections:
                connection.close()

        asyncio.run(load())
        assert statuses == [200] * 8
        assert server.process.wait(WAIT_S) == 0
        with pytest.raises(OSError, match="refused"):
            opened(server)


def test_an_open_loop_counts_from_the_moment_a_request_was_to_be_sent(server: Any, group_photo: bytes) -> None:
    """Of a service that is given three times what it can do, callers wait for longer and longer, or are refused."""
    alone = asyncio.run(closed_loop(detect(server, group_photo), 1, 1.0))
    rate = 6 * len(alone.latencies) / alone.seconds
    outcome = asyncio.run(open_loop(detect(server, group_photo), rate, 2.0, "even"))
    assert set(outcome.statuses) == {200, 429}
    assert sum(outcome.statuses.values()) == pytest.approx(2.0 * rate, abs=2)
    assert max(outcome.latencies) > 1.5 * min(alone.latencies)
