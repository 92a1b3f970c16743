"""When calls are made again: against servers that answer as they are told, byte by byte, and against a busy service."""

import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from likeness import (
    NO_RETRIES,
    AsyncClient,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    Erasure,
    InternalError,
    LikenessError,
    NotReady,
    Overloaded,
    PersonNotFound,
    Retries,
    TimedOut,
)
from likeness.pauses import Pauses
from service.engine import Engine
from service.settings import Settings
from tests.likeness.conftest import Awaited, opened
from tests.likeness.scripted import HANG, RESET, Scripted, answer, error
from tests.served import listening

pytestmark = pytest.mark.anyio

FAST = Retries(first_pause_s=0.01)
LIVE = b'{"status": "live"}'


async def test_a_busy_service_is_asked_again_when_it_wants_to_be(kind: str) -> None:
    at = formatdate(time.time() + 1.5, usegmt=True)
    busy = [error(429, "overloaded", "Retry-After: 1"), error(503, "not_ready", f"Retry-After: {at}")]
    with Scripted(*busy, answer(200, LIVE)) as server:
        async with opened(kind, server.url, retries=FAST) as caller:
            assert (await caller.live()).status == "live"
    assert server.times[1] - server.times[0] >= 1
    assert len(server.times) == 3


async def test_broken_connections_are_made_anew(kind: str) -> None:
    with Scripted(RESET, b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", answer(200, LIVE)) as server:
        async with opened(kind, server.url, retries=FAST) as caller:
            assert (await caller.live()).status == "live"


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_proxy_that_lost_the_service_is_a_broken_connection(kind: str, status: int) -> None:
    lost = answer(status, b"<html>")
    with Scripted(lost, answer(200, LIVE), lost) as server:
        async with opened(kind, server.url, retries=FAST) as caller:
            assert (await caller.live()).status == "live"
            # Nobody knows what was done.
            with pytest.raises(ConnectionFailed, match=f"status {status}"):
                await caller.request("POST", "/v1/new-call", json={})


async def test_enrolment_is_sent_again_under_the_same_key(kind: str, portrait: bytes) -> None:
    done = answer(201, b'{"enrolled": [{"face_id": "f1"}], "rejected": []}')
    with Scripted(RESET, error(429, "rate_limited"), done, done) as server:
        async with opened(kind, server.url, retries=FAST) as caller:
            enrolment = await caller.enrol("staff", "ann", [portrait])
            assert [face.face_id for face in enrolment.enrolled] == ["f1"]
            await caller.enrol("staff", "ann", [portrait])
    first, second, third, other = server.header("idempotency-key")
    assert first == second == third != other
    # All three were the same photo, whole.
    assert len(set(server.header("content-length"))) == 1


async def test_what_may_have_been_done_is_not_done_again(kind: str) -> None:
    with Scripted(RESET) as server:
        async with opened(kind, server.url, retries=FAST) as caller:
            with pytest.raises(ConnectionFailed):
                await caller.request("POST", "/v1/new-call", json={})
    assert len(server.heads) == 1
    # A busy service has done nothing.
    with Scripted(error(429, "overloaded"), answer(200, b"{}")) as server:
        async with opened(kind, server.url, retries=FAST) as caller:
            assert await caller.request("POST", "/v1/new-call", json={}) == {}


@pytest.mark.parametrize(
    ("status", "code", "raised"), [(500, "internal", InternalError), (404, "person_not_found", PersonNotFound)]
)
async def test_other_errors_are_raised_at_once(kind: str, status: int, code: str, raised: type[Exception]) -> None:
    with Scripted(error(status, code)) as server:
        async with opened(kind, server.url, retries=FAST) as caller:
            with pytest.raises(raised):
                await caller.person("staff", "ann")
    assert len(server.heads) == 1


async def test_an_erasure_whose_answer_was_lost_is_known(kind: str) -> None:
    gone = error(404, "person_not_found")
    with Scripted(RESET, gone, gone) as server:
        async with opened(kind, server.url, retries=FAST) as caller:
            assert await caller.delete_person("staff", "ann") == Erasure()
            with pytest.raises(PersonNotFound):
                await caller.delete_person("staff", "ann")


async def test_there_is_an_end_to_it(kind: str) -> None:
    with Scripted(*[error(503, "not_ready")] * 3) as server:
        async with opened(kind, server.url, retries=Retries(attempts=3, first_pause_s=0.01)) as caller:
            with pytest.raises(NotReady) as failed:
                await caller.live()
            assert (failed.value.status, failed.value.request_id) == (503, "r1")
    assert len(server.heads) == 3
    # Not even begun: it would be later than the patience lasts.
    with Scripted(error(429, "overloaded", "Retry-After: 100")) as server:
        async with opened(kind, server.url) as caller:
            start = time.monotonic()
            with pytest.raises(Overloaded) as refused:
                await caller.live()
            assert refused.value.retry_after_s == 100
            assert time.monotonic() - start < 5


async def test_a_deadline_holds_over_all_attempts_and_is_passed_on(kind: str) -> None:
    late = error(503, "deadline_exceeded", "Retry-After: 1")
    with Scripted(late, late) as server:
        async with opened(kind, server.url, retries=FAST) as caller:
            start = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                await caller.with_options(timeout_s=1.5).live()
            assert time.monotonic() - start < 1.5
    first, second = (int(value) for value in server.header("x-request-timeout-ms"))
    assert second <= first - 1000 <= 500
    with Scripted(HANG) as server:
        async with opened(kind, server.url, timeout_s=0.2) as caller:
            with pytest.raises(TimedOut):
                await caller.live()


async def test_the_service_drops_what_is_late(kind: str, engine: Engine, tmp_path: Path, group_photo: bytes) -> None:
    with listening(engine, tmp_path, Settings()) as url:
        async with opened(kind, url, timeout_s=0.002, retries=NO_RETRIES) as caller:
            # Said by the service, before it looked at the photo.
            with pytest.raises((DeadlineExceeded, Overloaded)):
                await caller.detect(group_photo)


async def test_all_calls_of_an_overloaded_service_are_answered_in_the_end(
    kind: str, engine: Engine, tmp_path: Path, group_photo: bytes
) -> None:
    with listening(engine, tmp_path, Settings(max_waiting=1)) as url:

        async def all_at_once(retries: Retries) -> list[Any]:
            outcomes: list[Any] = []
            async with opened(kind, url, retries=retries) as caller, anyio.create_task_group() as tasks:

                async def one() -> None:
                    try:
                        outcomes.append(len((await caller.detect(group_photo)).faces))
                    except Overloaded as refused:
                        outcomes.append(refused.retry_after_s)

                for _ in range(8):
                    tasks.start_soon(one)
            return outcomes

        # It is overloaded indeed.
        assert any(outcome != 6 for outcome in await all_at_once(NO_RETRIES))
        assert await all_at_once(Retries(attempts=100, longest_pause_s=0.2)) == [6] * 8


async def test_whoever_waits_gives_up_when_the_client_is_closed(kind: str) -> None:
    failed: list[LikenessError] = []
    with Scripted(error(503, "not_ready", "Retry-After: 30")) as server:
        client = Client(server.url) if kind == "sync" else AsyncClient(server.url)
        # A copy waits, and the one that it was made of is closed.
        caller = (Awaited(client) if isinstance(client, Client) else client).with_options(timeout_s=60)

        async def wait() -> None:
            try:
                await caller.live()
            except LikenessError as error:
                failed.append(error)

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                while not server.heads:
                    await anyio.sleep(0.01)
                await anyio.sleep(0.1)  # until it has read the answer, and waits
                await (client.close() if isinstance(client, AsyncClient) else anyio.to_thread.run_sync(client.close))
    assert len(failed) == 1


async def test_a_pause_ends_by_itself_and_there_is_none_after_the_end() -> None:
    pauses, start = Pauses(), time.monotonic()
    with anyio.fail_after(5):
        assert not await pauses.wait(0.05)
        assert time.monotonic() - start > 0.04
        pauses.end()
        assert await pauses.wait(60)
