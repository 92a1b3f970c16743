"""The fair queue: order within a tenant, turns between tenants."""

import random

from service.runtime.fair_queue import FairQueue


def filled(names: str) -> FairQueue[str]:
    queue: FairQueue[str] = FairQueue()
    for place, name in enumerate(names):
        queue.push(name, f"{name}{place}")
    return queue


def drained(queue: FairQueue[str]) -> list[str]:
    return [item for item in iter(queue.pop, None) if item is not None]


def test_tenants_take_turns_and_keep_their_own_order() -> None:
    assert drained(filled("aaabbc")) == ["a0", "b3", "c5", "a1", "b4", "a2"]
    assert FairQueue[str]().pop() is None


def test_a_tenant_who_comes_later_has_the_next_turn_but_for_those_who_wait() -> None:
    queue = filled("aaaa")
    assert queue.pop() == "a0"
    queue.push("b", "b")
    assert drained(queue) == ["a1", "b", "a2", "a3"]


def test_what_is_taken_comes_in_turns_and_the_rest_keeps_its_places() -> None:
    queue = filled("aaabbc")
    assert queue.take(lambda item: item in ("a1", "b3", "b4")) == ["b3", "a1", "b4"]
    # c was not served: it comes first; a before b, who was served last.
    assert drained(queue) == ["c5", "a0", "a2"]


def test_removing_and_counting() -> None:
    queue = filled("aabaab")
    assert (len(queue), queue.longest(), queue.waiting("b")) == (6, ("a", 4), ["b2", "b5"])
    assert queue.remove("a", "a3")
    assert not queue.remove("a", "a3")
    assert not queue.remove("nobody", "a3")
    assert sorted(queue) == ["a0", "a1", "a4", "b2", "b5"]
    assert drained(queue) == ["a0", "b2", "a1", "b5", "a4"]
    assert (len(queue), queue.longest()) == (0, ("", 0))


def test_nobody_is_passed_over_twice_whatever_happens() -> None:
    """Between two turns of one tenant, every other who waited all the time has had one."""
    rng = random.Random(7)
    queue: FairQueue[tuple[str, int]] = FairQueue()
    passed: dict[str, dict[str, int]] = {}
    for step in range(5000):
        if rng.random() < 0.55:
            tenant = rng.choice("abcd")
            if not queue.waiting(tenant):
                passed[tenant] = {}
            queue.push(tenant, (tenant, step))
        elif (item := queue.pop()) is not None:
            for other in passed:
                if other != item[0] and queue.waiting(other):
                    passed[other][item[0]] = passed[other].get(item[0], 0) + 1
                    assert passed[other][item[0]] <= 1
            passed[item[0]] = {}
