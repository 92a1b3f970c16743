"""The batcher: how many batches questions take, who waits for whom, and that each gets its own answer or error."""

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

import pytest

from service.errors import CallerLeft, DeadlineExceeded, Overloaded
from service.runtime.batcher import Batcher, BatchLimits
from service.runtime.caller import Caller, work_for

WAIT_S = 10.0


class Gated:
    """Doubles numbers; the first batch waits until it is let go, and a bad question spoils its batch."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.go, self.begun = threading.Event(), threading.Event()

    def __call__(self, questions: list[Any]) -> list[Any]:
        self.batches.append(list(questions))
        self.begun.set()
        assert self.go.wait(WAIT_S)
        if "bad" in questions:
            raise ValueError("bad question")
        return [2 * question for question in questions]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


@contextmanager
def asking(
    batcher: Batcher[Any, Any], questions: Sequence[Any], gate: Gated, callers: Sequence[Caller] | None = None
) -> Iterator[list[Any]]:
    """Each question asked by a thread of its own, in order: the first runs, the others wait. At the end of the block
    the gate opens, and the list that it was given holds the answer or error of each."""
    results: list[Any] = [None] * len(questions)
    callers = callers or [Caller()] * len(questions)

    def ask(place: int) -> None:
        work_for(callers[place])
        try:
            results[place] = batcher.ask(questions[place])
        except Exception as error:
            results[place] = error

    threads = [
        threading.Thread(target=copy_context().run, args=(ask, place), daemon=True) for place in range(len(questions))
    ]
    threads[0].start()
    assert gate.begun.wait(WAIT_S)
    for queued, thread in enumerate(threads[1:], 1):
        thread.start()
        until(lambda queued=queued: len(batcher._queue) >= queued)  # type: ignore[misc]
    yield results
    gate.go.set()
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert (len(batcher._queue), batcher._running) == (0, 0)


def ask_all(batcher: Batcher[Any, Any], questions: Sequence[Any], gate: Gated, **more: Any) -> list[Any]:
    with asking(batcher, questions, gate, **more) as results:
        pass
    return results


def test_a_free_place_runs_a_question_at_once_in_the_callers_own_thread() -> None:
    threads: list[int] = []

    def run(questions: list[int]) -> list[int]:
        threads.append(threading.get_ident())
        return questions

    assert Batcher(run, BatchLimits()).ask(7) == 7
    assert threads == [threading.get_ident()]


def test_all_that_wait_share_the_second_batch() -> None:
    gate = Gated()
    assert ask_all(Batcher(gate, BatchLimits()), list(range(40)), gate) == [2 * number for number in range(40)]
    assert gate.batches == [[0], list(range(1, 40))]


def test_a_batch_is_bounded_by_the_sizes_of_its_questions() -> None:
    gate = Gated()
    ask_all(Batcher(gate, BatchLimits(most=4)), list(range(10)), gate)
    assert gate.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9]]
    gate = Gated()
    # One that is larger than a batch may be runs alone; smaller ones behind it fill up what it leaves.
    ask_all(Batcher(gate, BatchLimits(most=4), size=len), ["a", "bbb", "cc", "d", "eeeee", "f"], gate)
    assert gate.batches == [["a"], ["bbb", "d"], ["cc", "f"], ["eeeee"]]


def test_groups_run_apart_the_longest_waiting_first() -> None:
    gate = Gated()
    ask_all(Batcher(gate, BatchLimits(), group=lambda number: number % 3), [0, 1, 2, 3, 4, 5, 6], gate)
    assert gate.batches == [[0], [1, 4], [2, 5], [3, 6]]


def test_as_many_batches_run_at_once_as_may() -> None:
    meeting = threading.Barrier(3)

    def run(questions: list[int]) -> list[int]:
        meeting.wait(WAIT_S)  # passes only with three inside
        return questions

    batcher, results = Batcher(run, BatchLimits(most=1, parallel=3)), []
    threads = [threading.Thread(target=lambda n=n: results.append(batcher.ask(n))) for n in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert sorted(results) == list(range(9))


def test_a_bad_question_spoils_nothing_for_the_others_of_its_batch() -> None:
    gate = Gated()
    results = ask_all(Batcher(gate, BatchLimits()), [1, 2, "bad", 3], gate)
    assert (results[:2], results[3]) == ([2, 4], 6)
    assert isinstance(results[2], ValueError)
    assert gate.batches == [[1], [2, "bad", 3], [2], ["bad"], [3]]


def test_an_error_of_the_group_reaches_its_caller_alone() -> None:
    def group(question: object) -> None:
        if question == "x":
            raise TypeError("no group")

    gate = Gated()
    batcher = Batcher(gate, BatchLimits(), group=group)
    with asking(batcher, [1, 2, 3], gate) as results, pytest.raises(TypeError, match="no group"):
        batcher.ask("x")
    assert results == [2, 4, 6]


@pytest.mark.parametrize("answers", [[], [1, 2]])
def test_a_wrong_number_of_answers_is_an_error(answers: list[int]) -> None:
    with pytest.raises(RuntimeError, match=f"{len(answers)} answers to 1 questions"):
        Batcher(lambda _: answers, BatchLimits()).ask("anything")


def test_whoever_left_or_is_out_of_time_is_dropped_before_the_batch() -> None:
    gate = Gated()
    left, late = Caller(), Caller(deadline=time.monotonic() + 0.05)
    callers = [Caller(), left, Caller(), late]
    batcher = Batcher(gate, BatchLimits())
    with asking(batcher, [1, 2, 3, 4], gate, callers) as results:
        left.left = True
        # Out of time while the first batch still runs: answered now and not when it ends.
        until(lambda: results[3] is not None)
    assert isinstance(results[1], CallerLeft)
    assert isinstance(results[3], DeadlineExceeded)
    assert gate.batches == [[1], [3]]
    work_for(left)
    try:
        with pytest.raises(CallerLeft):
            batcher.ask(5)
    finally:
        work_for(Caller())
    assert len(gate.batches) == 2


def test_a_turn_is_not_given_to_whoever_has_left() -> None:
    gate, left = Gated(), Caller()
    with asking(Batcher(gate, BatchLimits(most=1)), [1, 2, 3], gate, [Caller(), left, Caller()]) as results:
        left.left = True
    assert results[2] == 6
    assert gate.batches == [[1], [3]]


def test_tenants_are_served_in_turn() -> None:
    gate = Gated()
    callers = [Caller(name) for name in "aaaaaabc"]
    ask_all(Batcher(gate, BatchLimits(most=2)), list(range(8)), gate, callers=callers)
    assert gate.batches == [[0], [1, 6], [7, 2], [3, 4], [5]]


def test_more_than_may_wait_are_refused() -> None:
    gate = Gated()
    batcher = Batcher(gate, BatchLimits(waiting=2))
    with asking(batcher, [1, 2, 3], gate) as results, pytest.raises(Overloaded):
        batcher.ask(4)
    assert results == [2, 4, 6]


def test_with_a_delay_a_batch_waits_until_it_is_full() -> None:
    batches: list[list[int]] = []

    def run(questions: list[int]) -> list[int]:
        batches.append(sorted(questions))
        return questions

    batcher = Batcher(run, BatchLimits(most=3, delay_s=0.9))
    start = time.monotonic()
    threads = [threading.Thread(target=batcher.ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert batches == [[0, 1, 2]]
    assert time.monotonic() - start < 0.8
    quick = Batcher(run, BatchLimits(most=3, delay_s=0.02))
    assert quick.ask(9) == 9  # alone, when the delay is over


def test_a_caller_that_is_interrupted_hands_the_lead_on(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gated()
    batcher: Batcher[int, int] = Batcher(gate, BatchLimits())
    leader = threading.Thread(target=batcher.ask, args=(1,), daemon=True)
    leader.start()
    assert gate.begun.wait(WAIT_S)

    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = 5) -> bool:  # noqa: ARG002
            gate.go.set()
            super().wait(5)
            raise KeyboardInterrupt

    follow = batcher._follow

    def interrupted(waiting: Any) -> None:
        waiting.woken = Interrupted()
        follow(waiting)

    monkeypatch.setattr(batcher, "_follow", interrupted)
    with pytest.raises(KeyboardInterrupt):
        batcher.ask(2)
    leader.join(WAIT_S)
    assert batcher.ask(3) == 6


def test_a_crowd_of_tenants_gets_its_own_answers_in_fewer_batches() -> None:
    batches: list[int] = []

    def run(questions: list[int]) -> list[int]:
        batches.append(len(questions))
        time.sleep(0.002)
        return [-question for question in questions]

    batcher, wrong = Batcher(run, BatchLimits(most=16, parallel=2), group=lambda number: number % 2), []

    def ask(offset: int) -> None:
        work_for(Caller(str(offset % 3), math.inf))
        wrong.extend(number for number in range(offset, offset + 50) if batcher.ask(number) != -number)

    threads = [threading.Thread(target=copy_context().run, args=(ask, 1000 * offset)) for offset in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert (wrong, sum(batches)) == ([], 600)
    assert len(batches) < 400
    assert (len(batcher._queue), batcher._running) == (0, 0)


@pytest.mark.parametrize("limits", [{"most": 0}, {"parallel": 0}, {"delay_s": -1}, {"delay_s": 2}, {"waiting": -1}])
def test_limits_that_make_no_sense_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        BatchLimits(**limits)  # type: ignore[arg-type]
