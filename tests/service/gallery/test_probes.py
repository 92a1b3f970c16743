"""Concurrent probes: which scans they share, and that each gets its own hits."""

import threading
import time
from typing import Any

import numpy as np
import pytest

from service.gallery.probes import Probe, shared_scans
from service.gallery.segment import Hit


class RecordingSegment:
    """Answers every probe with hits that name it; the first scan waits until it is let go."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.go, self.begun = threading.Event(), threading.Event()

    def search(self, probes: Any, top_k: int, persons: Any) -> list[list[Hit]]:
        self.calls.append((len(probes), top_k, persons if persons is None else persons.tolist()))
        self.begun.set()
        assert self.go.wait(10)
        return [[Hit(int(probe[0]), rank, 0.0) for rank in range(top_k)] for probe in probes]


def test_probes_share_a_scan_for_the_largest_top_k_and_filters_do_not() -> None:
    segment = RecordingSegment()
    searches = shared_scans(segment)
    chosen = np.array([4, 5])
    asked = [(1, 3, None), (2, 5, None), (3, 1, chosen), (4, 2, None), (5, 4, chosen.copy())]
    results: dict[int, list[Hit]] = {}

    def ask(name: int, top_k: int, persons: Any) -> None:
        results[name] = searches.ask(Probe(np.array([name, 0], np.float32), top_k, persons))

    threads = [threading.Thread(target=ask, args=question) for question in asked]
    threads[0].start()
    assert segment.begun.wait(10)
    for queued, thread in enumerate(threads[1:], 1):
        thread.start()
        deadline = time.monotonic() + 5
        while len(searches._queue) < queued:
            assert time.monotonic() < deadline
            time.sleep(0.0005)
    segment.go.set()
    for thread in threads:
        thread.join(10)
    assert segment.calls == [(1, 3, None), (2, 5, None), (2, 4, [4, 5])]
    for name, top_k, _ in asked:
        assert results[name] == [Hit(name, rank, 0.0) for rank in range(top_k)]


@pytest.mark.parametrize(
    ("embedding", "top_k"), [(np.array([np.nan, 1]), 1), (np.ones((1, 2)), 1), (np.ones(2), 0), (np.ones(()), 1)]
)
def test_a_probe_that_would_spoil_a_scan_is_refused_before_it(embedding: Any, top_k: int) -> None:
    segment = RecordingSegment()
    with pytest.raises(ValueError, match="finite vector"):
        shared_scans(segment).ask(Probe(embedding.astype(np.float32), top_k))
    assert segment.calls == []
