"""Decisions over two embedding spaces: the error rate that was asked for holds for both together."""

import math

import numpy as np
import pytest

from service.decision.searches import Wanted, choose_search_point
from service.decision.thresholds import Thresholds
from service.decision.two_spaces import Part, choose_rules, together, translated
from service.errors import InvalidRequest
from service.runtime.bundle import Bundle
from service.runtime.card import Calibration, OperatingPoint


@pytest.fixture(scope="module")
def first(bundle: Bundle) -> Thresholds:
    """That of the default bundle: means of several photos are known."""
    return Thresholds(bundle.card.calibration)


@pytest.fixture(scope="module")
def second(bundle: Bundle) -> Thresholds:
    """Another one: other thresholds, and of several photos nothing is known."""
    assert bundle.card.calibration is not None
    points = tuple(
        OperatingPoint(threshold=0.12 + 0.09 * decade, fmr=10.0**-decade, fnmr=0.002 * decade) for decade in range(1, 8)
    )
    fields = bundle.card.calibration.model_dump(exclude={"points", "tail", "of_mean", "best_of", "calibration_id"})
    made = Calibration.model_construct(
        **fields, points=points, tail=None, of_mean=None, best_of=None, calibration_id="0" * 64
    )
    return Thresholds(made)


@pytest.mark.parametrize("fpir", [0.1, 0.01])
@pytest.mark.parametrize("moved", [1, 300, 999])
def test_with_one_photo_each_space_has_the_threshold_of_the_whole_gallery(
    first: Thresholds, second: Thresholds, fpir: float, moved: int
) -> None:
    rules = choose_rules([Part("a", first, {1: 1000 - moved}), Part("b", second, {1: moved})], Wanted(fpir=fpir))
    for rule, thresholds in zip(rules, (first, second), strict=True):
        whole = choose_search_point(thresholds, {1: 1000}, Wanted(fpir=fpir))
        assert rule.point.threshold == pytest.approx(whole.threshold, abs=1e-4)
    # Multiplied out again, person by person.
    strangers = math.prod(
        (1 - thresholds.curve.fmrs_at(np.array(rule.point.threshold))) ** rule.part.persons  # type: ignore[union-attr]
        for rule, thresholds in zip(rules, (first, second), strict=True)
    )
    assert 1 - strangers == pytest.approx(fpir, rel=0.02)
    assert together(rules).fpir == pytest.approx(1 - strangers, rel=1e-6)


@pytest.mark.parametrize("sizes", [({5: 500, 1: 20}, {1: 400}), ({1: 400}, {6: 300, 2: 200}), ({3: 1}, {4: 900})])
def test_with_several_photos_the_union_keeps_the_rate(
    first: Thresholds, second: Thresholds, sizes: tuple[dict[int, int], dict[int, int]]
) -> None:
    """Though one calibration takes five photos for five persons, and the other nearly for one."""
    parts = [Part("a", first, sizes[0]), Part("b", second, sizes[1])]
    told = together(choose_rules(parts, Wanted(fpir=0.05))).fpir
    assert told is not None
    assert 0.045 < told <= 0.05 * (1 + 1e-6)


def test_ranking_is_by_how_rare_a_similarity_is(first: Thresholds, second: Thresholds) -> None:
    lax, strict = choose_rules([Part("a", first, {1: 500}), Part("b", second, {1: 500})], Wanted(fpir=0.01))
    for rule in (lax, strict):
        grid = np.linspace(-1, 1, 401)
        excess = np.array([rule.excess(float(similarity)) for similarity in grid])
        assert (np.diff(excess) < 0).all()  # strictly: within a space the order is that of the cosines
        assert ((excess <= 0) == (grid >= rule.point.threshold - 1e-12)).all()
    # The same rate is the same rank.
    for rate in (1e-3, 1e-5):
        at = [rule.part.thresholds.choose(fmr=rate).threshold for rule in (lax, strict)]
        assert lax.excess(at[0]) == pytest.approx(strict.excess(at[1]), abs=0.05)
        assert lax.fmr(at[0]) == pytest.approx(rate)


def test_a_raw_threshold_becomes_that_of_the_same_rate(first: Thresholds, second: Thresholds) -> None:
    for rate in (1e-2, 1e-4):
        there = translated(first.choose(fmr=rate).threshold, first, second)
        assert second.choose(threshold=there).fmr == pytest.approx(rate, rel=1e-3)
    rules = choose_rules(
        [Part("a", first, {1: 10}), Part("b", second, {1: 10})], Wanted(threshold=first.choose(fmr=1e-4).threshold)
    )
    assert rules[1].point.fmr == pytest.approx(1e-4, rel=1e-3)
    # Also where nobody is left in the space that it is one of.
    [rule] = choose_rules(
        [Part("b", second, {1: 20})], Wanted(threshold=first.choose(fmr=1e-4).threshold), Part("a", first, {})
    )
    assert rule.point.threshold == rules[1].point.threshold
    with pytest.raises(InvalidRequest, match="raw threshold says nothing"):
        translated(0.4, first, Thresholds(None))
