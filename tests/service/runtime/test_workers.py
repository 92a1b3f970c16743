"""Workers: bounded threads, a bounded queue, and places that always come back."""

import contextlib
import threading
import time
from collections.abc import Awaitable, Callable

import anyio
import pytest

from service.errors import DeadlineExceeded, FaceNotFound, Overloaded, RateLimited
from service.runtime.caller import Caller, current, work_for
from service.runtime.workers import Workers

WAIT_S = 10.0
SOON_S = 2.0


def in_time(main: Callable[[], Awaitable[None]]) -> None:
    """Runs ``main`` on an event loop of its own; what hangs fails instead."""

    async def limited() -> None:
        with anyio.fail_after(WAIT_S):
            await main()

    anyio.run(limited)


class Gate:
    """Work that holds its thread until the gate is opened; counts who is inside."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.begun = threading.Semaphore(0)
        self.runs = 0

    def __call__(self, answer: str = "") -> str:
        self.runs += 1
        self.begun.release()
        if not self.opened.wait(WAIT_S):
            raise TimeoutError("nobody opened the gate")
        return answer

    async def occupy(self, workers: Workers, group: anyio.abc.TaskGroup, running: int, waiting: int) -> None:
        """Starts so much work that ``running`` threads are held and ``waiting`` more is queued."""
        for _ in range(running + waiting):
            group.start_soon(workers.run, self)
        for _ in range(running):
            while not self.begun.acquire(blocking=False):
                await anyio.sleep(0.001)


async def refused(workers: Workers) -> Overloaded:
    with pytest.raises(Overloaded) as caught, anyio.fail_after(SOON_S):
        await workers.run(time.monotonic)
    return caught.value


async def all_places_are_free(workers: Workers, places: int) -> None:
    """Exactly so many calls fit in at once."""
    gate = Gate()
    async with anyio.create_task_group() as group:
        await gate.occupy(workers, group, workers.threads, places - workers.threads)
        await refused(workers)
        gate.opened.set()
    assert gate.runs == places


def test_results_come_back_from_another_thread() -> None:
    async def main() -> None:
        workers = Workers(2, 2)
        assert await workers.run(divmod, 17, 5) == (3, 2)
        assert await workers.run(threading.get_ident) != threading.get_ident()

    in_time(main)


def test_many_results_come_in_the_order_of_their_calls() -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.02 * (5 - number))
        return number

    async def main() -> None:
        assert await Workers(3, 9).map(slow_first, [(i,) for i in range(5)]) == [0, 1, 2, 3, 4]
        assert await Workers(1, 0).map(slow_first, []) == []

    in_time(main)


def test_an_error_comes_through_as_it_is() -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await Workers(1, 1).run(divmod, 1, 0)

        def work() -> None:
            raise FaceNotFound("image_b shows no face", {"image": "image_b"})

        with pytest.raises(FaceNotFound, match="image_b shows no face") as caught:
            await Workers(1, 1).run(work)
        assert caught.value.details == {"image": "image_b"}

    in_time(main)


def test_of_several_errors_the_first_call_has_its_own_and_all_are_waited_for() -> None:
    ended: list[int] = []

    def work(number: int) -> None:
        time.sleep(0.03 * (3 - number))
        ended.append(number)
        raise ValueError(f"call {number}")

    async def main() -> None:
        with pytest.raises(ValueError, match="call 1"):
            await Workers(3, 0).map(work, [(1,), (2,), (3,)])
        assert sorted(ended) == [1, 2, 3]

    in_time(main)


@pytest.mark.parametrize("threads", [1, 3])
def test_as_many_run_at_once_as_there_are_threads_and_no_more(threads: int) -> None:
    meeting = threading.Barrier(threads)
    lock = threading.Lock()
    running, most = 0, 0

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        meeting.wait(WAIT_S)  # passes only when all threads have come
        time.sleep(0.005)  # room for one too many
        with lock:
            running -= 1

    async def main() -> None:
        await Workers(threads, 100).map(work, [()] * (4 * threads))
        assert most == threads

    in_time(main)


@pytest.mark.parametrize(("threads", "max_waiting"), [(1, 0), (1, 1), (2, 3)])
def test_one_more_than_may_run_and_wait_is_refused_at_once(threads: int, max_waiting: int) -> None:
    async def main() -> None:
        workers, gate = Workers(threads, max_waiting), Gate()
        async with anyio.create_task_group() as group:
            await gate.occupy(workers, group, threads, max_waiting)
            error = await refused(workers)  # while the gate is shut, so it waited for nobody
            assert error.details == {"retry_after_s": 1}
            assert f"All {threads} workers are busy and {max_waiting} " in error.message
            assert gate.runs == threads
            gate.opened.set()
        assert gate.runs == threads + max_waiting, "those that waited were served"
        assert await workers.run(len, "free") == 4

    in_time(main)


def test_calls_that_do_not_all_fit_are_refused_together_and_none_is_started() -> None:
    async def main() -> None:
        workers, gate, started = Workers(1, 2), Gate(), []
        async with anyio.create_task_group() as group:
            await gate.occupy(workers, group, 1, 1)
            with pytest.raises(Overloaded):
                await workers.map(started.append, [(1,), (2,)])
            group.start_soon(workers.run, gate)  # one more does fit
            await anyio.sleep(0)
            gate.opened.set()
        assert started == []
        assert gate.runs == 3

    in_time(main)


def test_places_are_given_back_after_errors_and_refusals() -> None:
    async def main() -> None:
        workers = Workers(2, 1)
        for _ in range(5):
            with pytest.raises(ZeroDivisionError):
                await workers.map(divmod, [(1, 0), (1, 1), (2, 0)])
            with pytest.raises(Overloaded):
                await workers.map(divmod, [(1, 1)] * 4)
        await all_places_are_free(workers, 3)

    in_time(main)


def test_a_caller_who_gives_up_while_waiting_gives_the_place_back_and_is_never_served() -> None:
    async def main() -> None:
        workers, gate, served = Workers(1, 1), Gate(), []
        async with anyio.create_task_group() as group:
            await gate.occupy(workers, group, 1, 0)
            with anyio.move_on_after(0.05) as gone:
                await workers.run(served.append, "too late")
            assert gone.cancelled_caught
            group.start_soon(workers.run, gate)  # the place is free again
            await anyio.sleep(0.01)
            gate.opened.set()
        assert served == []
        assert gate.runs == 2
        await all_places_are_free(workers, 2)

    in_time(main)


def test_a_caller_who_gives_up_while_served_keeps_the_place_until_the_thread_is_done() -> None:
    async def main() -> None:
        workers, gate = Workers(1, 0), Gate()
        async with anyio.create_task_group() as group:
            await gate.occupy(workers, group, 1, 0)
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.02)
                await refused(workers)  # the thread is still at it
                gate.opened.set()
        await all_places_are_free(workers, 1)

    in_time(main)


def test_a_caller_out_of_time_in_the_queue_is_told_so_and_never_served() -> None:
    async def main() -> None:
        workers, gate, served = Workers(1, 2), Gate(), []
        async with anyio.create_task_group() as group:
            await gate.occupy(workers, group, 1, 0)
            work_for(Caller(deadline=time.monotonic() + 0.05))
            with pytest.raises(DeadlineExceeded), anyio.fail_after(SOON_S):
                await workers.run(served.append, "too late")
            work_for(Caller())
            gate.opened.set()
        assert served == []
        await all_places_are_free(workers, 3)

    in_time(main)


def test_a_caller_out_of_time_who_leaves_at_that_moment_holds_no_place() -> None:
    """Some of several pieces are taken out of the queue for the deadline, the others as their caller goes."""

    async def main() -> None:
        workers, gate = Workers(1, 3), Gate()
        async with anyio.create_task_group() as group:
            await gate.occupy(workers, group, 1, 0)
            for attempt in range(20):
                deadline = time.monotonic() + 0.02
                work_for(Caller(deadline=deadline))
                with anyio.move_on_after(0.02 + attempt * 3e-5), contextlib.suppress(DeadlineExceeded):
                    await workers.map(str, ["a", "b", "c"])
            work_for(Caller())
            gate.opened.set()
        await all_places_are_free(workers, 4)

    in_time(main)


def test_work_whose_turn_would_come_after_the_deadline_is_refused_at_once() -> None:
    async def main() -> None:
        workers, gate = Workers(1, 50), Gate()
        for _ in range(20):  # one piece takes some 20 ms here
            await workers.run(time.sleep, 0.02)
        async with anyio.create_task_group() as group:
            await gate.occupy(workers, group, 1, 20)
            work_for(Caller(deadline=time.monotonic() + 0.2))
            start = time.monotonic()
            with pytest.raises(Overloaded):
                await workers.run(len, "")
            assert time.monotonic() - start < 0.15
            work_for(Caller())
            gate.opened.set()

    in_time(main)


def test_tenants_have_their_turns_and_a_newcomer_takes_the_last_place_of_whoever_has_most() -> None:
    async def main() -> None:
        workers, gate = Workers(1, 4), Gate()
        served: list[str] = []
        refusals: list[str] = []

        async def ask(tenant: str, name: str) -> None:
            work_for(Caller(tenant))
            try:
                await workers.run(served.append, name)
            except Overloaded:
                refusals.append(name)

        async with anyio.create_task_group() as group:
            await gate.occupy(workers, group, 1, 0)
            for place in range(5):
                group.start_soon(ask, "crowd", f"crowd {place}")
            await anyio.sleep(0.01)
            assert refusals == ["crowd 4"]
            group.start_soon(ask, "one", "one 0")
            await anyio.sleep(0.01)
            assert refusals == ["crowd 4", "crowd 3"]
            gate.opened.set()
        assert served == ["crowd 0", "one 0", "crowd 1", "crowd 2"]
        await all_places_are_free(workers, 5)

    in_time(main)


def test_one_tenant_may_be_limited() -> None:
    async def main() -> None:
        workers, gate = Workers(1, 9, "limited", max_per_tenant=2), Gate()
        async with anyio.create_task_group() as group:
            work_for(Caller("a"))
            await gate.occupy(workers, group, 1, 1)
            with pytest.raises(RateLimited):
                await workers.run(len, "")
            with pytest.raises(RateLimited):
                workers.refuse_if_full()
            work_for(Caller("b"))
            workers.refuse_if_full(2)
            gate.opened.set()

    in_time(main)


def test_retry_after_is_how_long_the_queue_takes() -> None:
    async def main() -> None:
        workers, gate = Workers(1, 30), Gate()
        for _ in range(3):
            await workers.run(time.sleep, 0.1)
        async with anyio.create_task_group() as group:
            await gate.occupy(workers, group, 1, 30)
            error = await refused(workers)
            gate.opened.set()
        assert 3 <= error.details["retry_after_s"] <= 5  # thirty times a tenth of a second

    in_time(main)


def test_a_thread_takes_the_next_piece_of_work_while_the_event_loop_is_busy() -> None:
    async def main() -> None:
        workers, gate, ended = Workers(1, 4), Gate(), threading.Event()
        async with anyio.create_task_group() as group:
            await gate.occupy(workers, group, 1, 0)
            group.start_soon(workers.run, time.monotonic)
            group.start_soon(workers.run, ended.set)
            while workers.waiting < 2:
                await anyio.sleep(0)
            gate.opened.set()
            # The loop does nothing else meanwhile.
            assert ended.wait(SOON_S)

    in_time(main)


def test_work_in_a_thread_is_done_for_who_asked() -> None:
    async def main() -> None:
        workers, gate = Workers(1, 4), Gate()
        callers = [Caller(tenant) for tenant in ("ann", "ben")]
        found: dict[str, Caller] = {}

        async def ask(caller: Caller) -> None:
            work_for(caller)
            found[caller.tenant] = await workers.run(current)

        async with anyio.create_task_group() as group:
            await gate.occupy(workers, group, 1, 0)
            for caller in callers:
                group.start_soon(ask, caller)
            await anyio.sleep(0.01)
            gate.opened.set()
        assert list(found.values()) == callers

    in_time(main)
