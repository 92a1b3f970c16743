"""Mining: which classes, and which samples, a loss attends to.

Over classes: support vectors, whose terms in the softmax's denominator are multiplied by h ≥ 1; given here as
log h, which is added to their logits. Over samples: focal loss and hard mining, which turn the losses of a batch
into one.
"""

import torch
from torch import Tensor


def support_vectors(cosines: Tensor, target: Tensor) -> Tensor:
    """I_k = 1 where f(m, θ_y) − cos θ_k < 0: the classes k that a sample is mistaken for, its own margin counted in.

    SV-Softmax (Wang et al. 2018, arXiv 1812.11317), where f = cos θ_y; SV-AM-Softmax and SV-Arc-Softmax have their
    own indicator, with f = cos θ_y − m and f = cos(θ_y + m).

    Args:
        cosines: cos θ_k, (B, C).
        target: f(m, θ_y), (B, 1), cosine units.

    Returns:
        (B, C) bool. What it says of a sample's own class has no meaning.
    """
    return cosines > target


def support_vector_emphasis(cosines: Tensor, target: Tensor, scale: float, t: float) -> Tensor:
    """log h = s (t − 1)(cos θ_k + 1) I_k, (B, C), from h(t, θ_k, I_k) = exp(s (t − 1)(cos θ_k + 1) I_k).

    SV-Softmax (arXiv 1812.11317). t = 1 gives h = 1: the loss without it.

    Args:
        cosines, target: as in ``support_vectors``.
        scale: s, that of the logits.
        t: ≥ 1, how much harder a support vector counts.
    """
    return scale * (t - 1) * (cosines + 1) * support_vectors(cosines, target)


def misclassified_vector_emphasis(
    cosines: Tensor, target: Tensor, scale: float, t: float, adaptive: bool = True
) -> Tensor:
    """log h = s t (cos θ_k + 1) I_k where adaptive, s t I_k where fixed; (B, C).

    MV-Softmax (Wang et al. 2020, arXiv 1912.00833), the published form of SV-Softmax; here t = 0 gives the loss
    without it, and the adaptive form with t is SV-Softmax's with 1 + t.

    Args:
        cosines, target, scale: as in ``support_vector_emphasis``.
        t: ≥ 0.
    """
    weight = cosines + 1 if adaptive else torch.ones_like(cosines)
    return scale * t * weight * support_vectors(cosines, target)


def focal(losses: Tensor, gamma: float) -> Tensor:
    """The mean of (1 − p)^γ · L over the batch, where L = −log p: F-Softmax.

    Focal loss (Lin et al. 2017, arXiv 1708.02002, Eq. 4). γ = 0 gives the mean.

    Args:
        losses: L, (B,), natural logarithm.
        gamma: γ ≥ 0.
    """
    # Not below the smallest number: where a loss is exactly 0, x^γ with γ < 1 has an infinite derivative.
    wrong = -torch.expm1(-losses)
    return (wrong.clamp(min=torch.finfo(losses.dtype).tiny) ** gamma * losses).mean()


def hard_mining(losses: Tensor, kept: float) -> Tensor:
    """The mean over the ``kept`` part of the batch with the largest losses, at least one: HM-Softmax.

    Online hard example mining (Shrivastava et al. 2016, arXiv 1604.03540), as SV-Softmax compares with.

    Args:
        losses: (B,).
        kept: 0 to 1; 1 gives the mean.
    """
    return losses.topk(max(1, round(kept * len(losses)))).values.mean()
