"""Every loss against its formula written out again, and its gradient against finite differences."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import loss_oracle as oracle
import numpy as np
import pytest
import torch
from loss_oracle import Array
from torch import Tensor, nn

from models.losses import LOSSES, make_head

CLASSES, DIMENSION = 5, 4
LABELS = torch.tensor([0, 3, 3, 1, 0, 2, 1, 3])  # class 4 has no photo here


@dataclass(frozen=True)
class Case:
    name: str
    parameters: dict[str, Any]
    expected: Callable[[Array, Array, dict[str, Array]], float]  # of embeddings, labels and the head's state
    state: dict[str, Tensor] = field(default_factory=dict)  # what the head's state is to hold beside its centres

    def __str__(self) -> str:
        return f"{self.name} {self.parameters}"


def margin_softmax(
    name: str,
    f: Callable[[float], float] = math.cos,
    /,
    h: Callable[..., float] = lambda _cosine, _indicator: 1.0,
    average: Callable[[list[float]], float] = lambda losses: float(np.mean(losses)),
    state: dict[str, Tensor] | None = None,
    **parameters: Any,
) -> Case:
    def expected(embeddings: Array, labels: Array, head: dict[str, Array]) -> float:
        scale = parameters.get("scale")
        return average(oracle.softmax_losses(embeddings, labels, head["centers"], scale, f, h))

    return Case(name, parameters, expected, state or {})


def annealed(multiple: int, weight: float) -> Callable[[float], float]:
    return lambda theta: (weight * math.cos(theta) + oracle.mirrored_cosine(multiple * theta)) / (1 + weight)


def sv(scale: float, t: float) -> Callable[[float, int], float]:
    return lambda cosine, indicator: math.exp(scale * (t - 1) * (cosine + 1) * indicator)


def softmax(embeddings: Array, labels: Array, head: dict[str, Array]) -> float:
    return float(np.mean(oracle.linear_losses(embeddings, labels, head["weight"], head["bias"])))


def softmax_and_center(embeddings: Array, labels: Array, head: dict[str, Array]) -> float:
    own = [float(np.sum((x - head["centers"][y]) ** 2)) for x, y in zip(embeddings, labels, strict=True)]
    return softmax(embeddings, labels, head) + 0.7 * sum(own) / 2 / len(own)


def unit(embeddings: Array) -> Array:
    return np.array([x / math.sqrt(float(x @ x)) for x in embeddings])


def squared_triplet(embeddings: Array, labels: Array, _head: dict[str, Array]) -> float:
    x = unit(embeddings)
    return oracle.triplet(lambda i, j: math.dist(x[i], x[j]) ** 2, labels, 0.3)


def angular_triplet(embeddings: Array, labels: Array, _head: dict[str, Array]) -> float:
    return oracle.triplet(lambda i, j: oracle.angle_between(embeddings[i], embeddings[j]), labels, 0.4)


CASES = [
    Case("softmax", {}, softmax),
    margin_softmax("modified-softmax"),
    margin_softmax("normface", scale=12.0),
    margin_softmax("sphereface", annealed(4, 1000 / 1.12), state={"margin.iteration": torch.tensor(1)}),
    margin_softmax("sphereface", annealed(4, 5.0), state={"margin.iteration": torch.tensor(10**6)}),
    margin_softmax("sphereface", annealed(3, 0.0), multiple=3, base=0, minimum=0),
    margin_softmax("sphereface", annealed(2, 4 / 9), multiple=2, base=4, gamma=2, power=2, minimum=0,
                   state={"margin.iteration": torch.tensor(1)}),
    margin_softmax("am-softmax-without-fn", lambda theta: math.cos(theta) - 0.35),
    margin_softmax("am-softmax", lambda theta: math.cos(theta) - 0.35, scale=30),
    margin_softmax("cosface", lambda theta: math.cos(theta) - 0.2, scale=12.0, margin=0.2),
    margin_softmax("arcface", lambda theta: oracle.mirrored_cosine(theta + 0.5), scale=12.0),
    margin_softmax("arcface", lambda theta: oracle.mirrored_cosine(theta + 1.6), scale=12.0, margin_radians=1.6),
    margin_softmax("combined-margin", lambda theta: oracle.mirrored_cosine(theta + 0.3) - 0.2, scale=12.0),
    margin_softmax("combined-margin", lambda theta: oracle.mirrored_cosine(2.3 * theta + 0.9) - 0.15,
                   scale=12.0, multiple=2.3, margin_radians=0.9, margin=0.15),
    margin_softmax("f-softmax", average=lambda losses: oracle.focal(losses, 2), scale=3.0),
    margin_softmax("f-softmax", average=lambda losses: oracle.focal(losses, 0.5), scale=3.0, gamma=0.5),
    margin_softmax("hm-softmax", average=lambda losses: oracle.hard_mining(losses, 7), scale=12.0),  # 0.9 of 8
    margin_softmax("hm-softmax", average=lambda losses: oracle.hard_mining(losses, 2), scale=12.0, kept=0.25),
    margin_softmax("sv-softmax", h=sv(12, 1.2), scale=12.0),
    margin_softmax("sv-am-softmax", lambda theta: math.cos(theta) - 0.35, h=sv(12, 1.2), scale=12.0),
    margin_softmax("sv-arc-softmax", lambda theta: oracle.mirrored_cosine(theta + 0.5), h=sv(12, 1.5),
                   scale=12.0, t=1.5),
    margin_softmax("mv-am-softmax", lambda theta: math.cos(theta) - 0.35,
                   h=lambda cosine, indicator: math.exp(12 * 0.2 * (cosine + 1) * indicator), scale=12.0),
    margin_softmax("mv-am-softmax", lambda theta: math.cos(theta) - 0.35,
                   h=lambda _cosine, indicator: math.exp(12 * 0.2 * indicator), scale=12.0, adaptive=False),
    margin_softmax("mv-arc-softmax", lambda theta: oracle.mirrored_cosine(theta + 0.5),
                   h=lambda cosine, indicator: math.exp(12 * 0.3 * (cosine + 1) * indicator), scale=12.0, t=0.3),
    Case("center", {"weight": 0.7}, softmax_and_center),
    Case("contrastive", {}, lambda x, y, _head: oracle.contrastive(unit(x), y, 1.0)),
    Case("contrastive", {"margin": 1.6}, lambda x, y, _head: oracle.contrastive(unit(x), y, 1.6)),
    Case("triplet", {"margin": 0.3}, squared_triplet),
    Case("angular-triplet", {"margin_radians": 0.4}, angular_triplet),
]  # fmt: skip


def embeddings_and_head(case: Case, seed: int) -> tuple[Tensor, nn.Module]:
    """Embeddings of several lengths, all the way round the centres; a float64 head that keeps its state."""
    generator = torch.Generator().manual_seed(seed)
    head = make_head(case.name, CLASSES, DIMENSION, **case.parameters).double().eval()
    state = {
        name: case.state.get(name, torch.randn(tensor.shape, generator=generator).to(tensor.dtype))
        for name, tensor in head.state_dict().items()
    }
    head.load_state_dict(state)
    return torch.randn(len(LABELS), DIMENSION, generator=generator, dtype=torch.float64), head


def test_every_loss_has_a_case() -> None:
    assert {case.name for case in CASES} == set(LOSSES)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_loss_is_its_formula(case: Case, seed: int) -> None:
    embeddings, head = embeddings_and_head(case, seed)
    state = {name: tensor.numpy() for name, tensor in head.state_dict().items()}
    loss = head(embeddings, LABELS)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(case.expected(embeddings.numpy(), LABELS.numpy(), state), rel=1e-10)
    assert loss.item() > 0


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_gradient_is_that_of_finite_differences(case: Case) -> None:
    embeddings, head = embeddings_and_head(case, seed=5)
    names, parameters = zip(*head.named_parameters(), strict=True) if list(head.parameters()) else ((), ())

    def loss(embeddings: Tensor, *parameters: Tensor) -> Tensor:
        result = torch.func.functional_call(head, dict(zip(names, parameters, strict=True)), (embeddings, LABELS))
        assert isinstance(result, Tensor)
        return result

    assert torch.autograd.gradcheck(loss, (embeddings.requires_grad_(), *parameters))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float32_is_near_float64(case: Case) -> None:
    embeddings, head = embeddings_and_head(case, seed=1)
    exact = head(embeddings, LABELS).item()
    loss = head.float()(embeddings.float(), LABELS)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_under_autocast_everything_is_computed_in_float32(case: Case) -> None:
    embeddings, head = embeddings_and_head(case, seed=2)
    head.float()
    leaf = embeddings.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = head(leaf, LABELS)
    loss.backward()
    outside = embeddings.bfloat16().float().requires_grad_()
    expected = head(outside, LABELS)
    expected.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == expected.item()
    assert leaf.grad is not None
    assert outside.grad is not None
    assert torch.equal(leaf.grad, outside.grad.bfloat16())
