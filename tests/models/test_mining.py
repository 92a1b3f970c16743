"""Mining over classes and over samples: what is picked, what it weighs, and where it is without effect."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from models import mining

# One sample; its own class would be a further column, which no function here looks at.
OWN = 0.5
COSINES = torch.tensor([[0.6, 0.500001, 0.4, 0.16, 0.14, -0.9]], dtype=torch.float64)


def target(value: float) -> Tensor:
    return torch.tensor([[value]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("margin", "mistaken"),
    [
        (OWN, [1, 1, 0, 0, 0, 0]),  # SV-Softmax: f = cos θ_y
        (OWN - 0.35, [1, 1, 1, 1, 0, 0]),  # SV-AM-Softmax: f = cos θ_y − m
        (math.cos(math.acos(OWN) + 0.5), [1, 1, 1, 1, 1, 0]),  # SV-Arc-Softmax: f = cos(θ_y + m) = 0.02
    ],
)
def test_each_loss_has_its_own_support_vectors(margin: float, mistaken: list[int]) -> None:
    assert mining.support_vectors(COSINES, target(margin)).int().tolist() == [mistaken]


def test_a_class_just_as_near_is_no_support_vector() -> None:
    assert not mining.support_vectors(target(0.25), target(0.25)).any()


def test_h_is_its_formula() -> None:
    emphasis = mining.support_vector_emphasis(COSINES, target(OWN), scale=32, t=1.2)
    expected = [math.exp(32 * (1.2 - 1) * (c + 1) * (1 if OWN - c < 0 else 0)) for c in COSINES[0].tolist()]
    np.testing.assert_allclose(emphasis.exp()[0].numpy(), expected, rtol=1e-12)
    assert expected[2:] == [1] * 4


def test_t_of_one_gives_h_of_one() -> None:
    emphasis = mining.support_vector_emphasis(COSINES, target(-1.0), scale=64, t=1)
    assert torch.equal(emphasis, torch.zeros_like(COSINES))


def test_misclassified_vectors_fixed_and_adaptive() -> None:
    fixed = mining.misclassified_vector_emphasis(COSINES, target(OWN), scale=32, t=0.2, adaptive=False)
    assert fixed[0].tolist() == pytest.approx([6.4, 6.4, 0, 0, 0, 0])
    adaptive = mining.misclassified_vector_emphasis(COSINES, target(OWN), scale=32, t=0.2)
    torch.testing.assert_close(adaptive, mining.support_vector_emphasis(COSINES, target(OWN), scale=32, t=1.2))
    # The form of the authors' program: a misclassified cosine c becomes (t + 1) c + t before the scale.
    torch.testing.assert_close((32 * COSINES + adaptive)[0, :2], 32 * (1.2 * COSINES + 0.2)[0, :2])


def test_gradients_reach_the_cosines_of_support_vectors_only() -> None:
    cosines = COSINES.clone().requires_grad_()
    mining.support_vector_emphasis(cosines, target(OWN), scale=32, t=1.2).sum().backward()
    assert cosines.grad is not None
    assert cosines.grad[0].tolist() == pytest.approx([6.4, 6.4, 0, 0, 0, 0])


LOSSES = torch.tensor([0.0, 1e-30, 1e-3, 0.7, 3.0, 60.0], dtype=torch.float64)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_loss_is_its_formula(gamma: float) -> None:
    expected = [(-math.expm1(-loss)) ** gamma * loss for loss in LOSSES.tolist()]
    assert mining.focal(LOSSES, gamma).item() == pytest.approx(np.mean(expected), rel=1e-13)
    if gamma == 0:
        assert mining.focal(LOSSES, gamma) == LOSSES.mean()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_of_focal_loss_is_finite_where_a_sample_is_certain(gamma: float, dtype: torch.dtype) -> None:
    losses = LOSSES.clone().to(dtype).requires_grad_()
    mining.focal(losses, gamma).backward()
    assert losses.grad is not None
    assert losses.grad.isfinite().all()
    assert losses.grad[-1].item() == pytest.approx(1 / 6)  # p = 0: as without the factor
    assert torch.autograd.gradcheck(lambda x: mining.focal(x, gamma), (LOSSES[2:].clone().requires_grad_(),))


@pytest.mark.parametrize(("kept", "number"), [(1.0, 10), (0.9, 9), (0.7, 7), (0.55, 6), (0.2, 2), (0.01, 1)])
def test_hard_mining_keeps_the_largest_losses(kept: float, number: int) -> None:
    losses = torch.tensor([3.0, 9, 1, 7, 5, 0, 8, 2, 6, 4], dtype=torch.float64, requires_grad=True)
    loss = mining.hard_mining(losses, kept)
    loss.backward()
    largest = list(range(9, 9 - number, -1))
    assert loss.item() == pytest.approx(sum(largest) / number)
    assert losses.grad is not None
    assert losses.grad.tolist() == pytest.approx([1 / number if x in largest else 0 for x in losses.tolist()])
