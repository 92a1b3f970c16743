"""Which of several ways to do the same is faster, on a machine that does other things meanwhile."""

import time
from collections.abc import Callable, Mapping

import numpy as np

MIN_ROUNDS, MAX_ROUNDS = 7, 60

# Seconds since some moment.
Clock = Callable[[], float]


def clock_for(provider: str, threads: int) -> Clock:
    """Where one thread does all the work, the time it was on a core: what else runs then hardly shows."""
    alone = threads == 1 and provider == "CPUExecutionProvider"
    return time.thread_time if alone else time.perf_counter


def race(
    calls: Mapping[str, Callable[[], object]],
    seconds: float,
    clock: Clock = time.perf_counter,
    rounds: int = MAX_ROUNDS,
) -> dict[str, float]:
    """Median seconds of each call, in rounds of one call each, so that a disturbance meets all of them alike.

    Args:
        seconds: about how long to measure, after one call each to warm up; at least ``MIN_ROUNDS`` rounds.
        rounds: and at most so many.
    """
    for call in calls.values():
        call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    for done in range(rounds):
        if done >= MIN_ROUNDS and time.perf_counter() > end:
            break
        for name, call in calls.items():
            start = clock()
            call()
            taken[name].append(clock() - start)
    return {name: float(np.median(times)) for name, times in taken.items()}
