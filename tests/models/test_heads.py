"""Heads by name: what they reduce to, embeddings at θ = 0 and π of a centre, large scales, state, refusals."""

import io
import math
import pickle
from itertools import pairwise
from typing import Any

import loss_oracle as oracle
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.heads import CenterHead, MarginHead
from models.losses import LOSSES, make_head

CLASSES, DIMENSION = 6, 8
NAMES = sorted(LOSSES)


def alike(name: str, **parameters: Any) -> nn.Module:
    """A float64 head; all heads of one kind made here have the same state."""
    head = make_head(name, CLASSES, DIMENSION, **parameters).double().eval()
    generator = torch.Generator().manual_seed(4)
    for parameter in head.parameters():
        nn.init.normal_(parameter, generator=generator)
    return head


@pytest.fixture
def embeddings() -> Tensor:
    return torch.randn(12, DIMENSION, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(12) % (CLASSES - 1)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("cosface", {"margin": 0, "scale": 9}), ("normface", {"scale": 9})),
        (("arcface", {"margin_radians": 0, "scale": 9}), ("normface", {"scale": 9})),
        (("am-softmax", {}), ("cosface", {"scale": 30})),
        (("am-softmax-without-fn", {"margin": 0}), ("modified-softmax", {})),
        (("sphereface", {"multiple": 1}), ("modified-softmax", {})),
        (("sphereface", {"base": 1e14, "gamma": 0}), ("modified-softmax", {})),  # λ → ∞
        (("combined-margin", {"margin_radians": 0, "margin": 0, "scale": 9}), ("normface", {"scale": 9})),
        (("combined-margin", {"margin_radians": 0, "margin": 0.35}), ("cosface", {})),
        (("combined-margin", {"margin_radians": 0.5, "margin": 0}), ("arcface", {})),
        (("sv-softmax", {"t": 1, "scale": 9}), ("normface", {"scale": 9})),
        (("sv-am-softmax", {"t": 1}), ("cosface", {"scale": 32})),
        (("sv-arc-softmax", {"t": 1}), ("arcface", {"scale": 32})),
        (("sv-am-softmax", {"t": 1.3, "margin": 0}), ("sv-softmax", {"t": 1.3})),
        (("sv-arc-softmax", {"t": 1.3, "margin_radians": 0}), ("sv-softmax", {"t": 1.3})),
        (("mv-am-softmax", {"t": 0}), ("cosface", {"scale": 32})),
        (("mv-arc-softmax", {"t": 0, "adaptive": False}), ("arcface", {"scale": 32})),
        (("mv-am-softmax", {"t": 0.2}), ("sv-am-softmax", {"t": 1.2})),
        (("mv-arc-softmax", {"t": 0.2}), ("sv-arc-softmax", {"t": 1.2})),
        (("f-softmax", {"gamma": 0, "scale": 9}), ("normface", {"scale": 9})),
        (("hm-softmax", {"kept": 1, "scale": 9}), ("normface", {"scale": 9})),
        (("center", {"weight": 0}), ("softmax", {})),
    ],
    ids=str,
)
def test_losses_that_are_the_same_for_some_parameter(
    one: tuple[str, dict[str, Any]], other: tuple[str, dict[str, Any]], embeddings: Tensor, labels: Tensor
) -> None:
    first, second = (alike(name, **parameters)(embeddings, labels) for name, parameters in (one, other))
    torch.testing.assert_close(first, second, rtol=1e-11, atol=0)


@pytest.mark.parametrize("name", ["sphereface", "cosface", "arcface", "combined-margin", "am-softmax-without-fn"])
def test_a_larger_margin_costs_more(name: str, embeddings: Tensor, labels: Tensor) -> None:
    sizes: dict[str, list[dict[str, Any]]] = {
        "sphereface": [{"multiple": m, "base": 0, "minimum": 0} for m in (1, 2, 3, 4)],
        "arcface": [{"margin_radians": m} for m in (0, 0.3, 0.8, 2.0, math.pi)],
        "combined-margin": [{"multiple": m} for m in (0.5, 1.0, 1.7, 3.0)],
    }
    margins = sizes.get(name, [{"margin": m} for m in (0, 0.2, 0.5, 1.5)])
    losses = [alike(name, **parameters)(embeddings, labels).item() for parameters in margins]
    assert all(small < large for small, large in pairwise(losses))


MARGIN_NAMES = [name for name in NAMES if isinstance(make_head(name, 2, 1), MarginHead)]


@pytest.mark.parametrize("scale", [None, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MARGIN_NAMES)
def test_losses_and_gradients_are_finite_on_a_centre_and_opposite_to_it(
    name: str, dtype: torch.dtype, scale: float | None
) -> None:
    has_scale = alike(name).scale is not None
    head = (alike(name, scale=scale) if scale and has_scale else alike(name)).to(dtype)
    centers = head.get_parameter("centers")
    at_ends = torch.cat([centers.detach(), -centers.detach()]) * (1 if scale is None else scale)
    embeddings = at_ends.clone().requires_grad_()
    loss = head(embeddings, torch.arange(2 * CLASSES) % CLASSES)
    loss.backward()
    assert loss.isfinite()
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()
    assert centers.grad is not None
    assert centers.grad.isfinite().all()
    assert centers.grad.abs().max() > 0


@pytest.mark.parametrize("name", MARGIN_NAMES)
def test_target_logits_at_the_ends_are_those_of_the_formula(name: str) -> None:
    head = alike(name)
    centers = head.get_parameter("centers").detach()
    assert isinstance(head, MarginHead)
    scale = head.scale or 2.0
    embeddings = torch.cat([centers, -centers]) / centers.norm(dim=1).repeat(2)[:, None] * scale
    classes = torch.arange(CLASSES).repeat(2)
    target = head.logits(embeddings, classes)[torch.arange(2 * CLASSES), classes] / scale
    at_zero, at_pi = {
        "sphereface": ((1000 * 1 + 1) / 1001, (1000 * -1 - 7) / 1001),  # λ = 1000; ψ(π) = cos 4π − 8
        "arcface": (math.cos(0.5), math.cos(0.5) - 2),
        "combined-margin": (math.cos(0.3) - 0.2, math.cos(0.3) - 2.2),
    }.get(name.replace("sv-arc-softmax", "arcface").replace("mv-arc-softmax", "arcface"), (1, -1))
    if "am-softmax" in name or name == "cosface":
        at_zero, at_pi = 1 - 0.35, -1 - 0.35
    np.testing.assert_allclose(target[:CLASSES].detach(), at_zero, atol=1e-7)
    np.testing.assert_allclose(target[CLASSES:].detach(), at_pi, atol=1e-7)


@pytest.mark.parametrize("name", MARGIN_NAMES)
def test_the_length_of_an_embedding_counts_only_without_a_scale(name: str, embeddings: Tensor, labels: Tensor) -> None:
    head = alike(name)
    once, tenfold = head(embeddings, labels), head(10 * embeddings, labels)
    assert torch.isclose(once, tenfold, rtol=1e-10) == (head.scale is not None)


@pytest.mark.parametrize("name", NAMES)
def test_the_length_of_a_centre_counts_only_where_nothing_is_normalised(
    name: str, embeddings: Tensor, labels: Tensor
) -> None:
    head = alike(name)
    before = head(embeddings, labels)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(7)
    assert torch.isclose(before, head(embeddings, labels), rtol=1e-10) == (name not in ("softmax", "center"))


def test_sphereface_counts_the_steps_of_training_only(embeddings: Tensor, labels: Tensor) -> None:
    head = alike("sphereface").train()
    losses = [head(embeddings, labels).item() for _ in range(50)]
    assert all(earlier < later for earlier, later in pairwise(losses))  # λ falls, the margin grows
    assert head.get_buffer("margin.iteration") == 50
    head.eval()
    assert head(embeddings, labels).item() == head(embeddings, labels).item() > losses[-1]
    assert head.get_buffer("margin.iteration") == 50


@pytest.mark.parametrize("name", NAMES)
def test_a_head_that_is_saved_and_loaded_goes_on_with_the_same_numbers(
    name: str, embeddings: Tensor, labels: Tensor
) -> None:
    head = alike(name).train()
    for _ in range(3):
        head(embeddings, labels)
    file = io.BytesIO()
    torch.save(head.state_dict(), file)
    file.seek(0)
    resumed = make_head(name, CLASSES, DIMENSION).double().train()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(2):
        assert head(embeddings, labels).item() == resumed(embeddings, labels).item()
    assert pickle.loads(pickle.dumps(head))(embeddings, labels).item() == resumed(embeddings, labels).item()


def test_centre_loss_moves_the_centres_of_the_batch_after_the_loss(embeddings: Tensor, labels: Tensor) -> None:
    head = alike("center", weight=0.5, rate=0.3)
    assert isinstance(head, CenterHead)
    start = torch.randn(CLASSES, DIMENSION, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    head.centers.copy_(start)
    still = head(embeddings, labels)
    assert torch.equal(head.centers, start)
    leaf = embeddings.clone().requires_grad_()
    loss = head.train()(leaf, labels)
    loss.backward()
    assert loss.item() == still.item()
    expected = oracle.moved_centers(embeddings.numpy(), labels.numpy(), start.numpy(), 0.3)
    np.testing.assert_allclose(head.centers.numpy(), expected, rtol=1e-13)
    assert torch.equal(head.centers[-1], start[-1])  # no photo of it
    assert not torch.equal(head.centers[0], start[0])
    assert head.centers.grad is None
    assert "centers" not in dict(head.named_parameters())


def test_initial_centres_point_everywhere() -> None:
    torch.manual_seed(0)
    head = make_head("arcface", 500, 128)
    directions = nn.functional.normalize(head.get_parameter("centers").detach())
    cosines = directions @ directions.T - 2 * torch.eye(500)
    assert cosines.max() < 0.5
    assert head.training


@pytest.mark.parametrize("name", NAMES)
def test_batches_of_other_shapes_and_types_are_refused(name: str, embeddings: Tensor, labels: Tensor) -> None:
    head = alike(name)
    with pytest.raises(ValueError, match=r"embeddings are \(B, 8\) with B ≥ 1, not \(12, 7\)"):
        head(embeddings[:, :7], labels)
    with pytest.raises(ValueError, match=r"not \(8,\)"):
        head(embeddings[0], labels[:1])
    with pytest.raises(ValueError, match=r"not \(0, 8\)"):
        head(embeddings[:0], labels[:0])
    with pytest.raises(ValueError, match=r"floating point, not torch\.int64"):
        head(embeddings.long(), labels)
    with pytest.raises(ValueError, match=r"labels are \(12,\) int64, one for each embedding, not \(11,\) torch\.int64"):
        head(embeddings, labels[:11])
    with pytest.raises(ValueError, match=r"not \(12,\) torch\.int32"):
        head(embeddings, labels.int())


@pytest.mark.parametrize("wrong", [-1, CLASSES])
@pytest.mark.parametrize("name", ["softmax", "arcface", "center"])
def test_labels_of_no_class_are_refused(name: str, wrong: int, embeddings: Tensor, labels: Tensor) -> None:
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        alike(name)(embeddings, labels.index_fill(0, torch.tensor([3]), wrong))


def test_an_unknown_loss_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="there is no loss 'archface'; there are softmax, modified-softmax, normface"):
        make_head("archface", CLASSES, DIMENSION)


def test_an_unknown_parameter_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="'arcface' has no parameter 'margin'; it has scale, margin_radians"):
        make_head("arcface", CLASSES, DIMENSION, margin=0.5)
    with pytest.raises(ValueError, match="'softmax' has no parameter 'scale'; it has none"):
        make_head("softmax", CLASSES, DIMENSION, scale=64)


@pytest.mark.parametrize(
    ("name", "parameter", "value", "says"),
    [
        ("arcface", "margin_radians", 28.6, "less than or equal to 3.14"),  # degrees
        ("arcface", "margin_radians", "0.5", "valid number"),
        ("arcface", "scale", 0, "greater than 0"),
        ("arcface", "scale", math.inf, "finite"),
        ("cosface", "margin", -0.35, "greater than or equal to 0"),
        ("cosface", "margin", math.nan, "less than or equal to 2"),
        ("cosface", "margin", True, "valid number"),
        ("sphereface", "multiple", 1.5, "valid integer"),
        ("sphereface", "multiple", 0, "greater than or equal to 1"),
        ("combined-margin", "multiple", 0, "greater than 0"),
        ("sv-softmax", "t", 0.2, "greater than or equal to 1"),
        ("mv-am-softmax", "t", -0.1, "greater than or equal to 0"),
        ("mv-am-softmax", "adaptive", 1, "valid boolean"),
        ("f-softmax", "gamma", -1, "greater than or equal to 0"),
        ("hm-softmax", "kept", 0, "greater than 0"),
        ("hm-softmax", "kept", 90, "less than or equal to 1"),
        ("triplet", "margin", 5, "less than or equal to 4"),
        ("center", "rate", 1.1, "less than or equal to 1"),
    ],
)
def test_a_wrong_value_is_refused_by_name(name: str, parameter: str, value: object, says: str) -> None:
    with pytest.raises(ValueError, match="^the loss") as caught:
        make_head(name, CLASSES, DIMENSION, **{parameter: value})
    assert f"the loss {name!r}: {parameter} = {value!r}: " in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.parametrize(("classes", "dimension"), [(1, 8), (0, 8), (6, 0)])
def test_too_few_classes_or_dimensions_are_refused(classes: int, dimension: int) -> None:
    with pytest.raises(ValueError, match=f"not {classes} and {dimension}"):
        make_head("normface", classes, dimension)
