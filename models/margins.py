"""The margins: what each loss of the family puts in the place of the target class's cosine.

Pure functions of cos θ, θ being the angle between an embedding and the centre of its own class. They take cosines
of any shape, −1 to 1, floating point, and give values of the same shape and dtype in cosine units; a larger margin
gives a smaller value, so the embedding must come closer to its centre for the same loss. Angles and margins inside
an angle are in radians, margins outside it in cosine units. The scale s belongs to the head.

None of them rises with θ anywhere between 0 and π, and their gradients are finite at both ends.
"""

import math

import torch
from torch import Tensor


def plain(cosines: Tensor) -> Tensor:
    """cos θ: no margin. Modified softmax (SphereFace, Eq. 5) and NormFace (Wang et al. 2017, arXiv 1704.06369)."""
    return cosines


def cosface(cosines: Tensor, margin: float) -> Tensor:
    """cos θ − m.

    CosFace (Wang et al. 2018, arXiv 1801.09414, Eq. 4) and AM-Softmax (Wang et al. 2018, arXiv 1801.05599, Eq. 5).

    Args:
        margin: m, cosine units.
    """
    return cosines - margin


def arcface(cosines: Tensor, margin_radians: float) -> Tensor:
    """cos(θ + m) up to θ + m = π, and −cos(θ + m) − 2 beyond.

    ArcFace (Deng et al. 2019, arXiv 1801.07698, Eq. 3). Beyond π the bare cosine would rise again and reward the
    embeddings that are furthest off. The paper's code falls back to cos θ − m sin m there, which jumps at π (by
    −0.12 at m = 0.5); this is SphereFace's continuation, which is continuous and has a continuous derivative.

    Args:
        margin_radians: m.
    """
    return monotonic_cosine(angles(cosines) + margin_radians)


def sphereface(cosines: Tensor, multiple: int, annealing: float | Tensor = 0.0) -> Tensor:
    """(λ cos θ + ψ(θ)) / (1 + λ), ψ(θ) = (−1)^k cos(mθ) − 2k for θ in [kπ/m, (k + 1)π/m].

    A-Softmax of SphereFace (Liu et al. 2017, arXiv 1704.08063, Eq. 7); λ as in its training (appendix).

    Args:
        multiple: m, a whole number; 1 is no margin.
        annealing: λ ≥ 0, a number or a scalar tensor: large at first, so that training begins without a margin.
    """
    return (annealing * cosines + monotonic_cosine(multiple * angles(cosines))) / (1 + annealing)


def combined(cosines: Tensor, multiple: float, margin_radians: float, margin: float) -> Tensor:
    """(−1)^k cos(a) − 2k − m₃ with a = m₁θ + m₂, k = ⌊a/π⌋: that is cos(m₁θ + m₂) − m₃ made monotonic.

    The combined margin of ArcFace (arXiv 1801.07698, Eq. 4) for all values, not only where a stays within 0 to π.
    (m, 0, 0) is SphereFace, (1, m, 0) ArcFace and (1, 0, m) CosFace.

    Args:
        multiple: m₁ > 0, need not be whole.
        margin_radians: m₂.
        margin: m₃, cosine units.
    """
    return monotonic_cosine(multiple * angles(cosines) + margin_radians) - margin


def annealing_weight(iteration: Tensor, base: float, gamma: float, power: float, minimum: float) -> Tensor:
    """λ = max(λ_min, λ_base (1 + γ·iteration)^−power), as in the training of SphereFace.

    Args:
        iteration: steps made so far, an integer tensor of any shape; the result is float64 of that shape.
    """
    return (base * (1 + gamma * iteration.double()) ** -power).clamp(min=minimum)


def monotonic_cosine(angle: Tensor) -> Tensor:
    """(−1)^k cos a − 2k, k = ⌊a/π⌋: the cosine mirrored at each multiple of π, so that it never rises.

    SphereFace's ψ (Eq. 7) for any real angle, in radians. Its derivative is −|sin a|.
    """
    k = torch.floor(angle.detach() / math.pi)
    sign = 1 - 2 * torch.remainder(k, 2)
    return sign * torch.cos(angle) - 2 * k


def angles(cosines: Tensor) -> Tensor:
    """θ = acos(cos θ), in radians, kept a hair away from 0 and π.

    The derivative of acos is infinite at ±1. Cosines within the dtype's ε of ±1, or beyond by rounding, are clamped
    and get no gradient; little is lost, as the cosine of two unit vectors is itself flat there.
    """
    limit = 1 - torch.finfo(cosines.dtype).eps
    return torch.acos(cosines.clamp(-limit, limit))
