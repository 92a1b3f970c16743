"""Intervals over persons against persons drawn one by one, in loops."""

from itertools import product

import numpy as np
import pytest

from service.evaluation.bootstrap import interval_over_persons, tar_at_fars
from service.evaluation.comparisons import Comparisons
from service.evaluation.metrics import tar_at_far

FARS = (0.3, 0.1, 0.03)


def comparisons(seed: int, persons: int = 12, digits: int = 2) -> Comparisons:
    """Scores with ties; persons differ in how alike they look, and have numbers with gaps; some pairs had no face."""
    rng = np.random.default_rng(seed)
    level = rng.normal(0, 0.12, persons)
    of_genuine = rng.integers(0, persons, 90)
    pairs = np.array([rng.choice(persons, 2, replace=False) for _ in range(400)]).T
    genuine = np.round(0.4 + level[of_genuine] + rng.normal(0, 0.15, 90), digits)
    impostor = np.round(0.1 + level[pairs].sum(axis=0) + rng.normal(0, 0.15, 400), digits)
    genuine[:2] = impostor[:3] = -np.inf
    return Comparisons(genuine, of_genuine * 10, impostor, pairs * 10, np.ones(400))


def drawn_again(data: Comparisons, drawn: list[int]) -> Comparisons | None:
    """The pairs among persons of whom some come several times; None if there are none of either kind."""
    genuine, impostor = [], []
    for person in drawn:
        genuine += [score for score, p in zip(data.genuine, data.genuine_persons, strict=True) if p == person]
    for a, b in product(drawn, drawn):
        impostor += [s for s, p, q in zip(data.impostor, *data.impostor_persons, strict=True) if (p, q) == (a, b)]
    if not genuine or not impostor:
        return None
    nobody = np.zeros(0)
    return Comparisons(np.array(genuine), nobody, np.array(impostor), nobody, np.ones(len(impostor)))


@pytest.mark.parametrize("seed", range(3))
def test_the_rates_are_those_of_tar_at_far(seed: int) -> None:
    data = comparisons(seed)
    found = tar_at_fars(data, FARS)
    assert [point.far for point in found] == list(FARS)
    assert [point.tar for point in found] == [tar_at_far(data.genuine, data.impostor, far) for far in FARS]
    assert 0 < found[-1].tar < found[0].tar < 1


def test_the_intervals_are_those_of_persons_drawn_again_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.evaluation.bootstrap.RESAMPLES", 60)
    data, persons = comparisons(7), 12
    draws = np.random.default_rng(0).multinomial(persons, np.full(persons, 1 / persons), 60)
    tars = []
    for counts in draws:
        sample = drawn_again(data, [10 * p for p in range(persons) for _ in range(counts[p])])
        assert sample is not None
        tars.append([tar_at_far(sample.genuine, sample.impostor, far) for far in FARS])
    low, high = np.quantile(tars, [0.025, 0.975], axis=0)
    found = tar_at_fars(data, FARS)
    assert [point.low for point in found] == pytest.approx(low.tolist(), abs=1e-12)
    assert [point.high for point in found] == pytest.approx(high.tolist(), abs=1e-12)
    assert all(point.low < point.tar < point.high for point in found)


def test_samples_without_a_pair_of_a_kind_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.evaluation.bootstrap.RESAMPLES", 200)
    genuine, persons = np.array([0.9, 0.2, 0.6]), np.array([0, 0, 1])
    pairs = np.array([[0, 0, 1], [1, 2, 2]])
    data = Comparisons(genuine, persons, np.array([0.5, 0.3, 0.7]), pairs, np.ones(3))
    draws = np.random.default_rng(0).multinomial(3, np.full(3, 1 / 3), 200)
    samples = [drawn_again(data, [p for p in range(3) for _ in range(counts[p])]) for counts in draws]
    assert None in samples
    tars = [tar_at_far(sample.genuine, sample.impostor, 0.5) for sample in samples if sample]
    [found] = tar_at_fars(data, (0.5,))
    assert [found.low, found.high] == pytest.approx(np.quantile(tars, [0.025, 0.975]).tolist(), abs=1e-12)


def test_an_impostor_that_stands_for_several_counts_as_several() -> None:
    data = comparisons(3)
    times = np.random.default_rng(1).integers(1, 5, data.impostor.size)
    repeated = Comparisons(
        data.genuine,
        data.genuine_persons,
        np.repeat(data.impostor, times),
        np.repeat(data.impostor_persons, times, axis=1),
        np.ones(times.sum()),
    )
    weighted = Comparisons(
        data.genuine, data.genuine_persons, data.impostor, data.impostor_persons, times.astype(float)
    )
    assert weighted.impostors == repeated.impostors == times.sum()
    assert tar_at_fars(weighted, FARS) == tar_at_fars(repeated, FARS)


def test_it_makes_no_difference_in_how_many_pieces_the_samples_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    data = comparisons(4)
    once = tar_at_fars(data, FARS)
    monkeypatch.setattr("service.evaluation.bootstrap._CHUNK", 1000)
    assert tar_at_fars(data, FARS) == once


def test_pairs_of_one_person_say_less_than_pairs_of_many() -> None:
    """The same scores, independent of the person, as 300 persons' and as 6 persons' who look unlike each other."""
    rng = np.random.default_rng(5)
    impostor, pairs = rng.normal(0, 1, 300), np.array([rng.choice(300, 2, replace=False) for _ in range(300)]).T
    of_six = np.arange(300) % 6
    genuine = rng.normal(2, 0.3, 300) + 2 * (of_six > 2)
    many = Comparisons(genuine, np.arange(300), impostor, pairs, np.ones(300))
    few = Comparisons(genuine, of_six, impostor, pairs, np.ones(300))
    [a], [b] = tar_at_fars(many, (0.01,)), tar_at_fars(few, (0.01,))
    assert a.tar == b.tar
    assert b.high - b.low > 1.5 * (a.high - a.low)


def test_outcomes_that_do_not_fit_are_a_defect() -> None:
    with pytest.raises(ValueError, match="outcomes must be"):
        interval_over_persons(np.ones((3, 1), np.bool_), np.arange(2))


def test_the_interval_is_that_of_persons_drawn_again_one_by_one() -> None:
    rng = np.random.default_rng(3)
    persons = rng.integers(0, 25, 200) * 7
    outcomes = rng.random((200, 2)) < np.where(persons % 3 == 0, 0.5, 0.95)[:, None]
    means = []
    for _ in range(3000):
        drawn = rng.choice(np.unique(persons), len(np.unique(persons)))
        means.append(np.concatenate([outcomes[persons == person] for person in drawn]).mean(axis=0))
    expected = np.quantile(means, [0.025, 0.975], axis=0)
    found = interval_over_persons(outcomes, persons)
    assert np.abs(found - expected).max() < 0.012
    assert (found[1] - found[0]).min() > 0.1
    assert (found[0] < outcomes.mean(axis=0)).all()
    assert (outcomes.mean(axis=0) < found[1]).all()


def test_more_photos_alike_of_the_same_persons_say_nothing_new() -> None:
    rng = np.random.default_rng(4)
    persons, outcomes = np.arange(300), rng.random((300, 1)) < 0.8
    once = interval_over_persons(outcomes, persons)
    assert np.allclose(interval_over_persons(np.tile(outcomes, (5, 1)), np.tile(persons, 5)), once, atol=1e-12)
    # One photo each: nothing but a binomial share.
    share = outcomes.mean()
    half = 1.96 * np.sqrt(share * (1 - share) / 300)
    assert np.allclose(once[:, 0], [share - half, share + half], atol=0.01)
