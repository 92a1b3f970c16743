"""The margins between θ = 0 and π, at both ends and beyond; what they reduce to; λ."""

import math
from collections.abc import Callable
from functools import partial

import loss_oracle as oracle
import numpy as np
import pytest
import torch
from torch import Tensor

from models import margins

THETA = torch.linspace(0, math.pi, 20_001, dtype=torch.float64)
STEP = math.pi / 20_000

MARGINS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[float], float]]] = {
    "plain": (margins.plain, math.cos),
    "cosface": (partial(margins.cosface, margin=0.35), lambda theta: math.cos(theta) - 0.35),
    "arcface": (partial(margins.arcface, margin_radians=0.5), lambda theta: oracle.mirrored_cosine(theta + 0.5)),
    "arcface, 2.5": (partial(margins.arcface, margin_radians=2.5), lambda theta: oracle.mirrored_cosine(theta + 2.5)),
    "sphereface, 1": (partial(margins.sphereface, multiple=1), math.cos),
    "sphereface, 4": (partial(margins.sphereface, multiple=4), lambda theta: oracle.mirrored_cosine(4 * theta)),
    "sphereface, λ = 5": (
        partial(margins.sphereface, multiple=4, annealing=5.0),
        lambda theta: (5 * math.cos(theta) + oracle.mirrored_cosine(4 * theta)) / 6,
    ),
    "combined": (
        partial(margins.combined, multiple=0.9, margin_radians=0.4, margin=0.15),
        lambda theta: oracle.mirrored_cosine(0.9 * theta + 0.4) - 0.15,
    ),
    "combined, large": (
        partial(margins.combined, multiple=3.7, margin_radians=2.9, margin=1.5),
        lambda theta: oracle.mirrored_cosine(3.7 * theta + 2.9) - 1.5,
    ),
    "combined, inwards": (
        partial(margins.combined, multiple=1.5, margin_radians=-4.0, margin=-0.3),
        lambda theta: oracle.mirrored_cosine(1.5 * theta - 4.0) + 0.3,
    ),
}
over_all_margins = pytest.mark.parametrize(("margin", "formula"), MARGINS.values(), ids=MARGINS)


@over_all_margins
def test_a_margin_is_its_formula_from_end_to_end(
    margin: Callable[[Tensor], Tensor], formula: Callable[[float], float]
) -> None:
    expected = np.array([formula(theta) for theta in THETA.tolist()])
    np.testing.assert_allclose(margin(torch.cos(THETA)).numpy(), expected, rtol=0, atol=1e-7)  # clamped: √(2ε) at ends
    np.testing.assert_allclose(margin(torch.cos(THETA))[1:-1].numpy(), expected[1:-1], rtol=0, atol=1e-11)


@over_all_margins
def test_in_float32_too(margin: Callable[[Tensor], Tensor], formula: Callable[[float], float]) -> None:
    values = margin(torch.cos(THETA).float())
    assert values.dtype == torch.float32
    # A cosine in float32 does not tell an angle below √(2ε) = 5e-4 from 0.
    np.testing.assert_allclose(values.numpy(), [formula(theta) for theta in THETA.tolist()], rtol=0, atol=2e-3)


@over_all_margins
def test_a_margin_never_rises_with_the_angle_and_never_jumps(
    margin: Callable[[Tensor], Tensor], formula: Callable[[float], float]
) -> None:
    values = margin(torch.cos(THETA))
    assert torch.diff(values).max() <= 1e-12
    assert torch.diff(values).min() > -4 * STEP  # the steepest of them turns 4 times as fast as θ
    assert formula(0) - formula(math.pi) > 0.9  # the formula itself falls, so this has something to see


@over_all_margins
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_and_upwards_everywhere(
    margin: Callable[[Tensor], Tensor], formula: Callable[[float], float], dtype: torch.dtype
) -> None:
    beyond = torch.tensor([1 + 1e-6, -1 - 1e-6, 1, -1], dtype=dtype)  # as rounding makes them
    near = torch.cos(torch.tensor([1e-7, 1e-6, 1e-5, 1e-4, 1e-3], dtype=torch.float64)).to(dtype)
    cosines = torch.cat([torch.cos(THETA).to(dtype), near, -near, beyond]).requires_grad_()
    values = margin(cosines)
    values.sum().backward()
    assert values.isfinite().all()
    assert cosines.grad is not None
    assert cosines.grad.isfinite().all()
    assert cosines.grad.min() > -1e-6  # −|sin a| within rounding
    assert cosines.grad[len(THETA) // 4] > 0
    assert values[-2].item() == pytest.approx(formula(0), abs=2e-3)
    assert values[-1].item() == pytest.approx(formula(math.pi), abs=2e-3)


@over_all_margins
def test_gradients_are_those_of_finite_differences(
    margin: Callable[[Tensor], Tensor], formula: Callable[[float], float]
) -> None:
    cosines = torch.linspace(-0.995, 0.995, 101, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(margin, (cosines,))
    h = 1e-6
    theta = torch.linspace(0.1, 3.0, 50, dtype=torch.float64)
    slopes = [(formula(angle + h) - formula(angle - h)) / (2 * h) / -math.sin(angle) for angle in theta.tolist()]
    inner = torch.cos(theta).requires_grad_()
    margin(inner).sum().backward()
    assert inner.grad is not None
    np.testing.assert_allclose(inner.grad.numpy(), slopes, rtol=1e-5, atol=1e-5)


def test_beyond_pi_the_bare_cosine_would_rise() -> None:
    theta = torch.tensor([math.pi - 0.4, math.pi - 0.2, math.pi], dtype=torch.float64)
    assert torch.all(torch.diff(torch.cos(theta + 0.5)) > 0)
    assert torch.all(torch.diff(margins.arcface(torch.cos(theta), 0.5)) < 0)
    assert margins.arcface(torch.tensor(-1.0, dtype=torch.float64), 0.5).item() == pytest.approx(math.cos(0.5) - 2)


def test_the_mirrored_cosine_for_any_angle() -> None:
    angle = torch.linspace(-30, 30, 60_001, dtype=torch.float64)
    values = margins.monotonic_cosine(angle)
    np.testing.assert_allclose(values.numpy(), [oracle.mirrored_cosine(a) for a in angle.tolist()], atol=1e-12)
    assert torch.diff(values).max() <= 1e-12
    assert torch.diff(values).min() >= -0.001 - 1e-12
    turned = margins.monotonic_cosine(torch.arange(-5, 6) * torch.tensor(math.pi, dtype=torch.float64))
    np.testing.assert_allclose(turned.numpy(), [1 - 2 * k for k in range(-5, 6)], atol=1e-12)


COSINES = torch.cos(THETA)[1:-1]


@pytest.mark.parametrize("multiple", [1, 2, 3, 4])
def test_the_combined_margin_reduces_to_sphereface(multiple: int) -> None:
    torch.testing.assert_close(margins.combined(COSINES, multiple, 0, 0), margins.sphereface(COSINES, multiple))


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5, 1.7])
def test_the_combined_margin_reduces_to_arcface_and_cosface(margin: float) -> None:
    torch.testing.assert_close(margins.combined(COSINES, 1, margin, 0), margins.arcface(COSINES, margin))
    torch.testing.assert_close(margins.combined(COSINES, 1, 0, margin), margins.cosface(COSINES, margin))


def test_no_margin_is_the_plain_cosine() -> None:
    for values in (
        margins.cosface(COSINES, 0),
        margins.arcface(COSINES, 0),
        margins.sphereface(COSINES, 1),
        margins.combined(COSINES, 1, 0, 0),
        margins.plain(COSINES),
    ):
        torch.testing.assert_close(values, COSINES)


def test_annealing_goes_from_no_margin_to_the_whole_margin() -> None:
    torch.testing.assert_close(margins.sphereface(COSINES, 4, 1e12), COSINES)
    whole = margins.monotonic_cosine(4 * torch.acos(COSINES))
    torch.testing.assert_close(margins.sphereface(COSINES, 4, 1e-12), whole)
    torch.testing.assert_close(margins.sphereface(COSINES, 4), whole)


def test_the_annealing_schedule() -> None:
    iterations = torch.tensor([0, 1, 100, 1000, 1658, 1659, 10**9])
    weights = margins.annealing_weight(iterations, base=1000, gamma=0.12, power=1, minimum=5)
    expected = [max(5.0, 1000 / (1 + 0.12 * iteration)) for iteration in iterations.tolist()]
    assert weights.tolist() == pytest.approx(expected, rel=1e-14)
    assert weights[0] == 1000
    assert weights[4] > 5
    assert weights[5] == 5
    other = margins.annealing_weight(torch.tensor(7), base=30, gamma=0.5, power=2.5, minimum=0.1)
    assert other.item() == pytest.approx(30 * 4.5**-2.5)
