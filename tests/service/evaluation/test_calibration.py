"""Calibrations of embeddings whose score distributions are known."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import betainc, betaincinv

from service.decision.searches import choose_person_point
from service.decision.thresholds import Thresholds
from service.errors import UnsupportedErrorRate
from service.evaluation.calibration import calibrate_embeddings
from service.evaluation.of_mean import measure_of_mean
from service.gallery.person_template import person_templates
from service.runtime.card import Calibration

MODEL = {"embedding_contract": "1" * 64, "detector": "2" * 64}
D, PERSONS = 16, 2500


def directions(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    vectors = rng.normal(size=(n, D))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def fmr_of(threshold: float) -> float:
    """Of uniform directions: (1 + cosine) / 2 is Beta((d − 1) / 2, (d − 1) / 2)."""
    return float(betainc((D - 1) / 2, (D - 1) / 2, (1 - threshold) / 2))


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    """Every tenth person has a second photo, at a cosine of 0.9."""
    rng = np.random.default_rng(7)
    first = directions(rng, PERSONS)
    aside = directions(rng, PERSONS)
    aside -= (aside * first).sum(axis=1, keepdims=True) * first
    second = 0.9 * first + np.sqrt(1 - 0.81) * aside / np.linalg.norm(aside, axis=1, keepdims=True)
    embeddings = np.concatenate([first, second[::10]]).astype(np.float32)
    persons = np.concatenate([np.arange(PERSONS), np.arange(PERSONS)[::10]])
    made = calibrate_embeddings(embeddings, persons, ("directions", "3" * 64), MODEL)
    assert made is not None
    return made


def test_thresholds_are_those_of_the_known_distribution(calibration: Calibration) -> None:
    for fmr in (1e-1, 1e-2, 1e-3, 1e-4):
        point = Thresholds(calibration).choose(fmr=fmr)
        assert point.fmr_interval is not None
        assert point.fmr_interval[0] <= fmr_of(point.threshold) <= point.fmr_interval[1]
        assert point.threshold == pytest.approx(1 - 2 * betaincinv((D - 1) / 2, (D - 1) / 2, fmr), abs=0.01)
        assert point.fnmr == 0
        assert point.fnmr_interval is not None
        assert point.fnmr_interval[1] == pytest.approx(1 - 0.025 ** (1 / 250), rel=1e-6)


def test_the_curve_ends_where_three_errors_would_have_to_speak(calibration: Calibration) -> None:
    dyads = PERSONS * (PERSONS - 1) / 2
    assert 3 / dyads <= calibration.points[-1].fmr < 3 / dyads * 1.6
    thresholds = Thresholds(calibration)
    with pytest.raises(UnsupportedErrorRate, match="extrapolate=true answers down to") as caught:
        thresholds.choose(fmr=1e-8)
    assert caught.value.details["smallest_fmr"] == calibration.points[-1].fmr
    assert caught.value.details["smallest_extrapolated_fmr"] < 1e-9


def test_the_tail_says_what_it_is_and_holds_the_truth(calibration: Calibration) -> None:
    for fmr in (1e-7, 1e-8, 1e-9):
        point = Thresholds(calibration).choose(fmr=fmr, extrapolate=True)
        assert point.extrapolated
        assert point.fmr_interval is not None
        assert point.fmr_interval[0] <= fmr_of(point.threshold) <= point.fmr_interval[1]
    measured = Thresholds(calibration).choose(fmr=1e-4, extrapolate=True)
    assert not measured.extrapolated
    assert measured == Thresholds(calibration).choose(fmr=1e-4)


def test_figures_and_digest_survive_the_file(calibration: Calibration) -> None:
    assert Calibration.model_validate_json(calibration.model_dump_json()) == calibration
    assert (calibration.persons, calibration.photos) == (PERSONS, PERSONS + 250)
    assert calibration.genuine == 250


@pytest.mark.parametrize("alike", [True, False])
def test_means_of_photos_all_alike_and_of_unlike_ones_are_to_strangers_as_single_photos(alike: bool) -> None:
    rng = np.random.default_rng(8)
    persons = np.repeat(np.arange(300), 4)
    vectors = directions(rng, 300)[persons] if alike else directions(rng, 1200)
    found = measure_of_mean(vectors.astype(np.float32), persons, np.array([0.6, 0.7]))
    assert found is not None
    assert found.photo_likeness == pytest.approx(1 if alike else 0, abs=0.02)
    assert found.stranger_likeness == pytest.approx(found.photo_likeness, abs=0.08)
    if alike:
        assert found.fnmr_shares == (1.0, 1.0, 1.0)  # nobody was missed


def test_false_matches_with_means_are_those_that_are_told() -> None:
    """Who somebody is lies in 24 dimensions, what is in a photo only in 80 others. Judged by other persons."""

    def faces(rng: np.random.Generator, persons: int, photos: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        owners = np.repeat(np.arange(persons), photos)
        who, what = rng.normal(size=(persons, 24))[owners] * (80 / 24) ** 0.5, rng.normal(size=(len(owners), 80))
        both = np.concatenate([who, what], axis=1)
        return (both / np.linalg.norm(both, axis=1, keepdims=True)).astype(np.float32), owners

    vectors, owners = faces(np.random.default_rng(10), 700, 8)
    made = calibrate_embeddings(vectors, owners, ("made up", "3" * 64), MODEL)
    assert made is not None
    assert made.of_mean is not None
    assert made.of_mean.photo_likeness == pytest.approx(0.5, abs=0.03)
    rng = np.random.default_rng(11)
    others, probes = faces(rng, 4000, 4)[0], faces(rng, 4000, 1)[0]
    means = person_templates(others, np.arange(0, 16000, 4), np.full(4000, 4))
    scores = means @ probes.T
    np.fill_diagonal(scores, -1)
    for fmr in (1e-2, 1e-3):
        one, four = (choose_person_point(Thresholds(made), k, fmr, None).threshold for k in (1, 4))
        assert (scores >= four).mean() == pytest.approx(fmr, rel=0.12)
        assert (scores >= one).mean() > 2 * fmr


def test_misses_with_means_are_counted_on_photos_that_are_not_enrolled() -> None:
    """Every tenth photo is useless. A useless probe is always missed; a useful one where its photo is useless, but
    hardly ever with a mean, which needs all of them to be."""
    rng = np.random.default_rng(9)
    persons = np.repeat(np.arange(400), 10)
    vectors = directions(rng, 400)[persons]
    useless = np.arange(4000) % 10 == 0
    vectors[useless] = directions(rng, int(useless.sum()))
    found = measure_of_mean(vectors.astype(np.float32), persons, np.array([0.6, 0.62]))
    assert found is not None
    missed = {1: 0.1 + 0.9 / 9, 3: 0.1, 5: 0.1}
    for photos in (3, 5):
        assert found.fnmr_shares[photos - 1] == pytest.approx(missed[photos] / missed[1], rel=0.06)
    assert list(found.fnmr_shares) == sorted(found.fnmr_shares, reverse=True)
