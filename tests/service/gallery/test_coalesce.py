"""Concurrent questions: how many scans they take, and that each gets its own answer or error."""

import threading
import time

import numpy as np
import pytest

from service.gallery.coalesce import Coalescer, Probe, coalesced
from service.gallery.segment import Hit


class SlowScan:
    """Doubles numbers; the first scan waits until it is let go."""

    def __init__(self):
        self.batches, self.go, self.begun = [], threading.Event(), threading.Event()

    def __call__(self, questions):
        self.batches.append(list(questions))
        self.begun.set()
        assert self.go.wait(10)
        if "bad" in questions:
            raise ValueError("bad question")
        return [2 * question for question in questions]


def ask_all(coalescer, questions, scan):
    """What each question got: the first runs a scan by itself, the others queue in order while it does."""
    results = [None] * len(questions)

    def ask(place):
        try:
            results[place] = coalescer.ask(questions[place])
        except Exception as error:
            results[place] = error

    threads = [threading.Thread(target=ask, args=(place,), daemon=True) for place in range(len(questions))]
    threads[0].start()
    assert scan.begun.wait(5)
    for queued, thread in enumerate(threads[1:], 1):
        thread.start()
        deadline = time.monotonic() + 5
        while len(coalescer._queue) < queued:
            assert time.monotonic() < deadline
            time.sleep(0.0005)
    scan.go.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert coalescer._queue == []
    assert coalescer._scanning is False
    return results


def test_all_that_wait_share_the_second_scan():
    scan = SlowScan()
    results = ask_all(Coalescer(scan), list(range(40)), scan)
    assert results == [2 * number for number in range(40)]
    assert scan.batches == [[0], list(range(1, 40))]


def test_a_batch_is_bounded():
    scan = SlowScan()
    results = ask_all(Coalescer(scan, limit=4), list(range(11)), scan)
    assert results == [2 * number for number in range(11)]
    assert scan.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]


def test_groups_are_scanned_apart_the_longest_waiting_first():
    scan = SlowScan()
    ask_all(Coalescer(scan, group=lambda number: number % 3), [0, 1, 2, 3, 4, 5, 6], scan)
    assert scan.batches == [[0], [1, 4], [2, 5], [3, 6]]


def test_an_error_reaches_the_callers_of_its_scan_and_no_others():
    scan = SlowScan()
    questions = [1, "bad", "worse", 3, 4]
    results = ask_all(Coalescer(scan, group=lambda question: isinstance(question, str)), questions, scan)
    assert (results[0], results[3:]) == (2, [6, 8])
    assert [str(error) for error in results[1:3]] == ["bad question", "bad question"]
    assert all(isinstance(error, ValueError) for error in results[1:3])


def test_an_error_of_the_group_reaches_its_caller_alone():
    scan = SlowScan()

    def group(question):
        if question == "x":
            raise TypeError("no group")

    results = ask_all(Coalescer(scan, group), [1, 2, 3], scan)
    with pytest.raises(TypeError, match="no group"):
        Coalescer(scan, group).ask("x")
    assert results == [2, 4, 6]


@pytest.mark.parametrize("answers", [[], [1, 2]])
def test_a_wrong_number_of_answers_is_an_error(answers):
    with pytest.raises(RuntimeError, match=f"{len(answers)} answers to 1 questions"):
        Coalescer(lambda _: answers).ask("anything")


def test_a_caller_that_is_interrupted_hands_the_lead_on(monkeypatch):
    scan = SlowScan()
    coalescer = Coalescer(scan)
    leader = threading.Thread(target=coalescer.ask, args=(1,), daemon=True)
    leader.start()
    assert scan.begun.wait(5)

    class Interrupted(threading.Event):
        def wait(self, timeout=5):
            scan.go.set()
            super().wait(timeout)
            raise KeyboardInterrupt

    follow = coalescer._follow

    def interrupted(waiting):
        waiting.woken = Interrupted()
        follow(waiting)

    monkeypatch.setattr(coalescer, "_follow", interrupted)
    with pytest.raises(KeyboardInterrupt):
        coalescer.ask(2)
    leader.join(5)
    assert coalescer.ask(3) == 6


def test_a_crowd_gets_its_own_answers_in_fewer_scans():
    scans = []

    def scan(questions):
        scans.append(len(questions))
        time.sleep(0.002)
        return [-question for question in questions]

    coalescer, wrong = Coalescer(scan), []

    def ask(offset):
        wrong.extend(number for number in range(offset, offset + 50) if coalescer.ask(number) != -number)

    threads = [threading.Thread(target=ask, args=(1000 * offset,)) for offset in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (wrong, sum(scans)) == ([], 400)
    assert len(scans) < 250


class FakeSegment:
    def __init__(self):
        self.calls, self.go, self.begun = [], threading.Event(), threading.Event()

    def search(self, probes, top_k, persons):
        self.calls.append((len(probes), top_k, persons if persons is None else persons.tolist()))
        self.begun.set()
        assert self.go.wait(10)
        return [[Hit(int(probe[0]), rank, 0.0) for rank in range(top_k)] for probe in probes]


def test_probes_share_a_scan_for_the_largest_top_k_and_filters_do_not():
    segment = FakeSegment()
    chosen = np.array([4, 5])
    asked = [(1, 3, None), (2, 5, None), (3, 1, chosen), (4, 2, None), (5, 4, chosen.copy())]
    probes = [Probe(np.array([name, 0], np.float32), top_k, persons) for name, top_k, persons in asked]
    results = ask_all(coalesced(segment), probes, segment)
    assert segment.calls == [(1, 3, None), (2, 5, None), (2, 4, [4, 5])]
    for (name, top_k, _), hits in zip(asked, results, strict=True):
        assert hits == [Hit(name, rank, 0.0) for rank in range(top_k)]


@pytest.mark.parametrize(
    ("embedding", "top_k"), [(np.array([np.nan, 1]), 1), (np.ones((1, 2)), 1), (np.ones(2), 0), (np.ones(()), 1)]
)
def test_a_probe_that_would_spoil_a_scan_is_refused_before_it(embedding, top_k):
    segment = FakeSegment()
    with pytest.raises(ValueError, match="finite vector"):
        coalesced(segment).ask(Probe(embedding.astype(np.float32), top_k))
    assert segment.calls == []


def test_a_limit_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        Coalescer(list, limit=0)
