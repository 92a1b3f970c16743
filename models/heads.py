"""Heads: what turns a batch's embeddings and labels into the loss to minimise, and owns the class centres.

One interface: ``head(embeddings, labels) -> loss``, with embeddings (B, d) as the backbone gives them (a head that
wants unit length normalises them itself), labels (B,) int64 from 0, and the loss a scalar, the mean over the batch.
Heads made by name, with the papers' defaults, are in ``models.losses``.

A head computes in the precision of its own parameters, float32 unless it was converted, also under autocast: at a
scale of 64 the steps of float16 near cos θ = 1 are logits 0.03 apart.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import margins, pairwise

CENTER_DEVIATION = 0.01  # standard deviation of initial centres, as arcface_torch; only their directions matter


@dataclass(frozen=True)
class MarginSoftmax:
    """A loss between cosines and labels: −log(e^{z_y} / (e^{z_y} + Σ_{k≠y} h_k e^{s cos θ_k})), z_y = s f(θ_y).

    Attributes:
        margin: f, from ``models.margins``: cosines to cosine units.
        scale: s; None for the length of the embedding, which is then not normalised.
        emphasis: log h (B, C) of cos θ_k (B, C) and f(θ_y) (B, 1), from ``models.mining``; None for h = 1.
        average: from the losses of a batch (B,) to a scalar.
    """

    margin: Callable[[Tensor], Tensor] = margins.plain
    scale: float | None = None
    emphasis: Callable[[Tensor, Tensor], Tensor] | None = None
    average: Callable[[Tensor], Tensor] = torch.mean


class MarginHead(nn.Module):
    """Class centres of unit length, and a ``MarginSoftmax`` over the cosines to them.

    Attributes:
        centers: (C, d) parameter; normalised when used.
    """

    def __init__(self, classes: int, dimension: int, loss: MarginSoftmax) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.empty(classes, dimension))
        nn.init.normal_(self.centers, std=CENTER_DEVIATION)
        self.margin = loss.margin  # a module among the head's own where it has state
        self.scale = loss.scale
        self.emphasis = loss.emphasis
        self.average = loss.average

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar.

        Raises:
            ValueError: shapes or types are not those of the interface.
        """
        return self.average(F.cross_entropy(self.logits(embeddings, labels), labels, reduction="none"))

    def logits(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """(B, C): s f(θ_y) in the sample's own class, s cos θ_k + log h_k in the others."""
        check_batch(embeddings, labels, self.centers.shape[1])
        with full_precision(embeddings):
            features = embeddings.to(self.centers.dtype)
            cosines = F.normalize(features) @ F.normalize(self.centers).T  # (B, C)
            target = self.margin(cosines.gather(1, labels[:, None]))  # (B, 1)
            scale = features.norm(dim=1, keepdim=True) if self.scale is None else self.scale
            return self.others(cosines, target, scale).scatter(1, labels[:, None], scale * target)

    def others(self, cosines: Tensor, target: Tensor, scale: Tensor | float) -> Tensor:
        """s cos θ_k + log h_k, (B, C), of cos θ_k (B, C) and f(θ_y) (B, 1)."""
        logits = scale * cosines
        return logits if self.emphasis is None else logits + self.emphasis(cosines, target)


class AnnealedSphereFace(nn.Module):
    """SphereFace's margin with its schedule of λ: a margin that counts the steps of training.

    Attributes:
        iteration: calls made in training mode, an int64 scalar that goes into checkpoints.
    """

    iteration: Tensor

    def __init__(self, multiple: int, base: float, gamma: float, power: float, minimum: float) -> None:
        super().__init__()
        self.multiple = multiple
        self.schedule = {"base": base, "gamma": gamma, "power": power, "minimum": minimum}
        self.register_buffer("iteration", torch.zeros((), dtype=torch.int64))

    def forward(self, cosines: Tensor) -> Tensor:
        annealing = margins.annealing_weight(self.iteration, **self.schedule)
        if self.training:
            self.iteration += 1
        return margins.sphereface(cosines, self.multiple, annealing)


class SoftmaxHead(nn.Module):
    """Softmax: −log of e^{W_y·x + b_y} / Σ_k e^{W_k·x + b_k}, nothing normalised.

    Attributes:
        weight, bias: W (C, d) and b (C,).
    """

    def __init__(self, classes: int, dimension: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, dimension))
        nn.init.normal_(self.weight, std=CENTER_DEVIATION)
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar. Raises ValueError for shapes or types that are not those of the interface."""
        check_batch(embeddings, labels, self.weight.shape[1])
        with full_precision(embeddings):
            return F.cross_entropy(F.linear(embeddings.to(self.weight.dtype), self.weight, self.bias), labels)


class CenterHead(SoftmaxHead):
    """Softmax and centre loss together: L_S + λ L_C (Wen et al. 2016, Eq. 5), of embeddings as they are.

    Each process moves its centres by its own batch alone; one process is what the paper describes.

    Attributes:
        centers: (C, d), not a parameter: each forward in training mode moves those of the batch's classes, after
            the loss was taken (``models.pairwise.moved_centers``).
    """

    centers: Tensor

    def __init__(self, classes: int, dimension: int, weight: float, rate: float) -> None:
        super().__init__(classes, dimension)
        self.center_weight = weight  # λ
        self.rate = rate
        self.register_buffer("centers", torch.zeros(classes, dimension))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        check_batch(embeddings, labels, self.centers.shape[1])
        features = embeddings.to(self.centers.dtype)  # once for both, else their gradients would meet in half precision
        loss = super().forward(features, labels)
        with full_precision(embeddings):
            loss = loss + self.center_weight * pairwise.center(features, labels, self.centers)
            if self.training:
                self.centers.copy_(pairwise.moved_centers(features, labels, self.centers, self.rate))
        return loss


class PairwiseHead(nn.Module):
    """A loss of ``models.pairwise`` over the unit embeddings of a batch; there are no class centres.

    Args:
        classes: unused; all heads are made alike.
        loss: from unit embeddings (B, d) and labels (B,) to a scalar.
    """

    def __init__(self, classes: int, dimension: int, loss: Callable[[Tensor, Tensor], Tensor]) -> None:  # noqa: ARG002
        super().__init__()
        self.dimension = dimension
        self.loss = loss

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar. Raises ValueError for shapes or types that are not those of the interface."""
        check_batch(embeddings, labels, self.dimension)
        with full_precision(embeddings):
            features = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
            return self.loss(F.normalize(features), labels)


def check_batch(embeddings: Tensor, labels: Tensor, dimension: int) -> None:
    """Raises ValueError where embeddings are not (B, dimension) floating or labels not (B,) int64, B ≥ 1.

    Whether labels are below the number of classes is left to the kernels, which refuse them: to look here would
    make a GPU wait.
    """
    if embeddings.ndim != 2 or embeddings.shape[1] != dimension or not len(embeddings):
        raise ValueError(f"embeddings are (B, {dimension}) with B ≥ 1, not {tuple(embeddings.shape)}")
    if not embeddings.is_floating_point():
        raise ValueError(f"embeddings are floating point, not {embeddings.dtype}")
    if labels.shape != embeddings.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(
            f"labels are ({len(embeddings)},) int64, one for each embedding, not {tuple(labels.shape)} {labels.dtype}"
        )


def full_precision(embeddings: Tensor) -> torch.autocast:
    """A context in which nothing is computed in less than the precision of its operands."""
    return torch.autocast(embeddings.device.type, enabled=False)
