"""The figures of verification: they show what they are given, and draw from whatever scores there are."""

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.evaluation import figures
from service.evaluation.bootstrap import TarAtFar
from service.evaluation.comparisons import Comparisons
from service.evaluation.metrics import tar_at_far


def of(genuine: NDArray[np.float64], impostor: NDArray[np.float64]) -> Comparisons:
    nobody = np.zeros(impostor.size, np.int64)
    return Comparisons(
        genuine, np.zeros(genuine.size, np.int64), impostor, np.stack([nobody, nobody]), np.ones(impostor.size)
    )


def pixels_of(png: bytes) -> NDArray[Any]:
    image = Image.open(io.BytesIO(png))
    assert (image.format, image.size) == ("PNG", (900, 650))
    return np.asarray(image.convert("RGB"), np.int16)


def scores() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    return rng.normal(0.6, 0.1, 500).clip(-1, 1), rng.normal(0.1, 0.1, 500)


def test_the_figures_show_the_scores_they_are_given() -> None:
    genuine, impostor = scores()
    data, other = of(genuine, impostor), of(genuine - 0.2, impostor)
    at = TarAtFar(0.01, 0.99, 0.97, 0.995)
    roc, det = figures.roc_figure(data, [at], "t"), figures.det_figure(data, "t")
    angles = figures.angle_figure(data, 0.3, "t")
    assert np.array_equal(pixels_of(roc), pixels_of(figures.roc_figure(data, [at], "t")))
    for drawn, otherwise in (
        (roc, figures.roc_figure(other, [at], "t")),
        (roc, figures.roc_figure(data, [TarAtFar(0.01, 0.99, 0.96, 0.995)], "t")),
        (roc, figures.roc_figure(data, [], "t")),
        (det, figures.det_figure(other, "t")),
        (angles, figures.angle_figure(other, 0.3, "t")),
        (angles, figures.angle_figure(data, 0.35, "t")),
        (angles, figures.angle_figure(data, None, "t")),
    ):
        assert not np.array_equal(pixels_of(drawn), pixels_of(otherwise))


def test_an_impostor_that_stands_for_several_is_drawn_as_several() -> None:
    genuine, impostor = scores()
    twice = of(genuine, np.repeat(impostor, 2))
    weighted = of(genuine, impostor)
    weighted.stand_for[:] = 2
    for draw in (lambda data: figures.det_figure(data, "t"), lambda data: figures.angle_figure(data, 0.3, "t")):
        assert np.array_equal(pixels_of(draw(twice)), pixels_of(draw(weighted)))


@pytest.mark.parametrize("n", [40, 20_000])
def test_the_curve_is_the_roc(n: int) -> None:
    rng = np.random.default_rng(1)
    genuine, impostor = rng.normal(0.5, 0.2, n), rng.normal(0.1, 0.2, n)
    far, tar = figures._steps(of(genuine, impostor))
    assert (np.diff(far) >= 0).all()
    assert (np.diff(tar) >= 0).all()
    assert (far[-1], tar[-1]) == (1, 1)
    assert len(far) <= figures.POINTS + 2
    for rate, expected in list(zip(far, tar, strict=True))[:-1]:
        assert expected == pytest.approx(tar_at_far(genuine, impostor, rate), abs=1e-12)
    if n == 40:
        # Every corner is there.
        assert {tar_at_far(genuine, impostor, k / n) for k in range(1, n)} <= set(tar.tolist())


def test_angles_are_those_between_unit_vectors() -> None:
    found = figures._degrees(np.array([1.0, 0.5, 0.0, -1.0, 1.0000001]))
    assert found == pytest.approx([0, 60, 90, 180, 0])


def test_normal_scores_of_one_width_give_a_straight_det() -> None:
    """Quantiles of two normal distributions 3 widths apart: Φ⁻¹(FRR) = −3 − Φ⁻¹(FAR)."""
    quantiles = figures._normal_deviate((np.arange(5000) + 0.5) / 5000)
    far, tar = figures._steps(of(quantiles + 3, quantiles))
    inside = (far > 0.005) & (tar < 0.995)
    x, y = figures._normal_deviate(far[inside]), figures._normal_deviate(1 - tar[inside])
    assert inside.sum() > 20
    assert np.abs(x + y + 3).max() < 0.05


@pytest.mark.parametrize("genuine", [[0.9], [0.9, -np.inf], [0.1, 0.1], [-np.inf]])
@pytest.mark.parametrize("impostor", [[0.1], [-np.inf], [0.95, 0.1]])
def test_the_figures_of_few_scores_draw_without_a_warning(genuine: list[float], impostor: list[float]) -> None:
    data = of(np.array(genuine), np.array(impostor))
    pixels_of(figures.roc_figure(data, [TarAtFar(0.5, 0.5, 0.5, 0.5)], "t"))
    pixels_of(figures.det_figure(data, "t"))
    pixels_of(figures.angle_figure(data, 0.5, "t"))
