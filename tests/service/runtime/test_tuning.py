"""The plan: what is chosen from measurements, kept for this machine and these networks alone, and safe without any."""

from pathlib import Path

import pytest

from service.errors import InvalidRequest
from service.runtime.batcher import BatchLimits
from service.runtime.bundle import Bundle
from service.runtime.measure import Measured, choose, measure
from service.runtime.networks import RuntimeOptions, available_cores
from service.runtime.tuning import Plan, keep, plan_file, plan_for, safe_plan


def test_without_a_measurement_every_core_runs_one_image_by_itself(tmp_path: Path, bundle: Bundle) -> None:
    plan = plan_for(tmp_path, bundle.card, "cpu", None)
    assert plan == safe_plan("cpu", 1)
    assert (plan.threads, plan.photo_threads, plan.measured) == (1, available_cores(), False)
    assert plan.detector == plan.embedder == BatchLimits(1, available_cores())
    assert safe_plan("cpu", 0).threads == available_cores()
    assert safe_plan("cpu", 0).detector.parallel == 1


def test_a_plan_is_kept_for_its_networks_and_its_threads(tmp_path: Path, bundle: Bundle) -> None:
    plan = Plan(2, 8, BatchLimits(4, 1), BatchLimits(8, 1), measured=True)
    file = plan_file(tmp_path, bundle.card, "cpu")
    keep(plan, file)
    assert plan_for(tmp_path, bundle.card, "cpu", None) == plan
    assert plan_for(tmp_path, bundle.card, "cpu", 2) == plan
    assert plan_for(tmp_path, bundle.card, "cpu", 1) == safe_plan("cpu", 1)
    embedder = bundle.card.embedder.model_copy(update={"sha256": "0" * 64})
    other = bundle.card.model_copy(update={"embedder": embedder})
    assert plan_for(tmp_path, other, "cpu", None) == safe_plan("cpu", 1)
    file.write_text('{"threads": 2}')
    with pytest.raises(InvalidRequest, match="is no plan"):
        plan_for(tmp_path, bundle.card, "cpu", None)


def rates(threads: int, at_once: int, detector: list[float], embedder: list[float]) -> list[Measured]:
    return [
        Measured(name, threads, at_once, batch, rate)
        for name, found in (("detector", detector), ("embedder", embedder))
        for batch, rate in zip((1, 2, 4), found, strict=True)
    ]


def test_the_fastest_way_is_chosen_and_what_is_noise_is_not() -> None:
    assert choose(rates(1, 2, [100, 103, 99], [50, 49, 48])).detector.most == 1
    better = choose(rates(1, 2, [100, 120, 121], [50, 49, 48]))
    assert (better.detector, better.embedder) == (BatchLimits(2, 2), BatchLimits(1, 2))
    # Threads within a network only where they gain.
    one = rates(1, 2, [100, 100, 100], [50, 50, 50])
    assert choose(one + rates(2, 1, [101, 101, 101], [51, 51, 51])).threads == 1
    two = choose(one + rates(2, 1, [150, 100, 100], [90, 50, 50]))
    assert (two.threads, two.detector.parallel, two.measured) == (2, 1, True)


def test_all_ways_are_measured_with_the_real_networks(bundle: Bundle) -> None:
    plan, found = measure(bundle, RuntimeOptions("cpu"), 0.01)
    assert {m.network for m in found} == {"detector", "embedder"}
    assert {m.batch for m in found} == {1, 2, 4, 8}
    assert {m.threads for m in found} >= {1, available_cores()}
    assert all(m.rate > 0 for m in found)
    assert plan.measured
    assert plan.threads in {m.threads for m in found}
