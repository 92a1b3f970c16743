"""Losses over pairs and triplets: which are picked, values by hand, batches without any, identical photos."""

import math
from collections.abc import Callable
from functools import partial

import loss_oracle as oracle
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models import pairwise

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "contrastive": partial(pairwise.contrastive, margin=1.0),
    "triplet": partial(pairwise.triplet, margin=0.2),
    "angular triplet": partial(pairwise.angular_triplet, margin_radians=0.35),
}
over_all_losses = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def on_circle(*degrees: float) -> Tensor:
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], 1)


def chord(degrees: float) -> float:
    return 2 * math.sin(math.radians(degrees) / 2)


def test_contrastive_by_hand() -> None:
    embeddings, labels = on_circle(0, 10, 40, 180), torch.tensor([0, 0, 1, 2])
    near = [(1 - chord(degrees)) ** 2 for degrees in (40, 30)]  # the other three impostor pairs are beyond 1
    expected = chord(10) ** 2 / 2 + sum(near) / 2 / 5
    assert pairwise.contrastive(embeddings, labels, 1.0).item() == pytest.approx(expected, rel=1e-12)


# Of 0°, 20° (the same person), 10° and 50° each: for (0°, 20°) the others at 10° are nearer, 50° is further.
TRIPLETS = on_circle(0, 20, 10, 50, -170), torch.tensor([7, 7, 3, 3, 5])


def test_triplets_by_hand() -> None:
    embeddings, labels = TRIPLETS
    picked = pairwise.semi_hard_triplets(torch.cdist(embeddings, embeddings), labels)
    assert torch.stack(picked, 1).tolist() == [[0, 1, 3], [1, 0, 3], [2, 3, 4], [3, 2, 0]]
    hinges = [(20, 50), (20, 30), (40, 180), (40, 50)]
    squared = [max(0, chord(p) ** 2 - chord(n) ** 2 + 0.2) for p, n in hinges]
    assert pairwise.triplet(embeddings, labels, 0.2).item() == pytest.approx(sum(squared) / 4, rel=1e-10)
    angular = [max(0, math.radians(p - n) + 0.35) for p, n in hinges]
    assert pairwise.angular_triplet(embeddings, labels, 0.35).item() == pytest.approx(sum(angular) / 4, rel=1e-10)
    assert [term > 0 for term in angular] == [False, True, False, True]


def test_where_all_others_are_nearer_the_furthest_of_them_is_picked() -> None:
    embeddings, labels = on_circle(0, 90, 10, 30, 20), torch.tensor([0, 0, 1, 2, 3])
    anchor, positive, negative = pairwise.semi_hard_triplets(torch.cdist(embeddings, embeddings), labels)
    assert (anchor[0], positive[0], negative[0]) == (0, 1, 3)
    assert (anchor[1], positive[1], negative[1]) == (1, 0, 2)
    assert len(anchor) == 2


@pytest.mark.parametrize("seed", range(20))
def test_triplets_are_those_of_a_loop(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    embeddings = F.normalize(torch.randn(24, 3, generator=generator, dtype=torch.float64))
    labels = torch.randint(0, 1 + seed % 8, (24,), generator=generator)
    distances = torch.cdist(embeddings, embeddings)
    picked = pairwise.semi_hard_triplets(distances, labels)
    expected = oracle.semi_hard(lambda i, j: distances[i, j].item(), labels.numpy())
    assert torch.stack(picked, 1).tolist() == [list(one) for one in expected]
    assert (len(expected) > 0) == (seed % 8 > 0)


def test_angles_and_squared_distances_pick_the_same_triplets() -> None:
    generator = torch.Generator().manual_seed(3)
    embeddings = F.normalize(torch.randn(40, 5, generator=generator, dtype=torch.float64))
    labels = torch.randint(0, 9, (40,), generator=generator)
    cosines = (embeddings @ embeddings.T).clamp(-1, 1)
    for one, other in zip(
        pairwise.semi_hard_triplets(2 - 2 * cosines, labels),
        pairwise.semi_hard_triplets(cosines.acos(), labels),
        strict=True,
    ):
        assert torch.equal(one, other)


@over_all_losses
@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 0, 0, 0], [0]], ids=str)
def test_batches_without_pairs_of_a_kind_give_finite_losses(
    loss: Callable[[Tensor, Tensor], Tensor], labels: list[int]
) -> None:
    embeddings = on_circle(0, 90, 180, 270)[: len(labels)].requires_grad_()
    value = loss(embeddings, torch.tensor(labels))
    value.backward()
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()
    is_pull = len(labels) == 4 and labels[1] == 0 and loss is LOSSES["contrastive"]  # the only one without a third
    assert (value.item() > 0) == is_pull


@over_all_losses
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_and_opposite_photos_have_finite_gradients(
    loss: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype
) -> None:
    x = F.normalize(torch.randn(2, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).to(dtype)
    embeddings = x[[0, 0, 0, 1, 1]].clone()
    embeddings[4] *= -1
    embeddings.requires_grad_()
    value = loss(embeddings, torch.tensor([0, 0, 1, 1, 0]))
    value.backward()
    assert value.item() > 0
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()


def test_centres_move_towards_their_photos() -> None:
    centers = torch.zeros(3, 2, dtype=torch.float64)
    photos, labels = on_circle(0, 0, 90), torch.tensor([1, 1, 2])
    moved = pairwise.moved_centers(photos, labels, centers, 0.5)
    np.testing.assert_allclose(moved, [[0, 0], [1 / 3, 0], [0, 1 / 4]], atol=1e-15)  # ½·2/(1 + 2), ½·1/(1 + 1)
    for _ in range(200):
        centers = pairwise.moved_centers(photos, labels, centers, 0.5)
    np.testing.assert_allclose(centers, [[0, 0], [1, 0], [0, 1]], atol=1e-10)
