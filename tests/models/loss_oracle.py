"""The losses written out again from their papers: float64, numbers and loops, nothing of torch or of ``models``.

Every loss takes embeddings (B, d) and labels (B,), and the class centres (C, d) if it has them, as numpy arrays.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def mirrored_cosine(angle: float) -> float:
    """(−1)^k cos a − 2k; k is counted up or down to the stretch [kπ, (k + 1)π] that holds the angle."""
    k = 0
    while angle > (k + 1) * math.pi:
        k += 1
    while angle < k * math.pi:
        k -= 1
    return (math.cos(angle) if k % 2 == 0 else -math.cos(angle)) - 2 * k


def angle_between(x: Array, y: Array) -> float:
    return math.acos(max(-1.0, min(1.0, float(x @ y) / math.sqrt(float(x @ x) * float(y @ y)))))


def softmax_losses(
    embeddings: Array,
    labels: Array,
    centers: Array,
    scale: float | None = None,
    margin: Callable[[float], float] = math.cos,  # of θ_y
    h: Callable[[float, int], float] = lambda _cosine, _indicator: 1.0,
) -> list[float]:
    """−log(e^{s f(θ_y)} / (e^{s f(θ_y)} + Σ_{k≠y} h(cos θ_k, I_k) e^{s cos θ_k})) of each sample."""
    losses = []
    for x, y in zip(embeddings, labels, strict=True):
        s = math.sqrt(float(x @ x)) if scale is None else scale
        target = margin(angle_between(x, centers[y]))
        denominator = math.exp(s * target)
        for k, center in enumerate(centers):
            if k != y:
                cosine = math.cos(angle_between(x, center))
                indicator = 0 if target - cosine >= 0 else 1
                denominator += h(cosine, indicator) * math.exp(s * cosine)
        losses.append(-math.log(math.exp(s * target) / denominator))
    return losses


def linear_losses(embeddings: Array, labels: Array, weight: Array, bias: Array) -> list[float]:
    losses = []
    for x, y in zip(embeddings, labels, strict=True):
        powers = [math.exp(float(w @ x) + float(b)) for w, b in zip(weight, bias, strict=True)]
        losses.append(-math.log(powers[y] / math.fsum(powers)))
    return losses


def focal(losses: list[float], gamma: float) -> float:
    return float(np.mean([(1 - math.exp(-loss)) ** gamma * loss for loss in losses]))


def hard_mining(losses: list[float], number: int) -> float:
    return float(np.mean(sorted(losses, reverse=True)[:number]))


def contrastive(embeddings: Array, labels: Array, margin: float) -> float:
    genuine, impostor = [], []
    for i in range(len(labels)):
        for j in range(i):
            distance = math.dist(embeddings[i], embeddings[j])
            if labels[i] == labels[j]:
                genuine.append(distance**2 / 2)
            else:
                impostor.append(max(0.0, margin - distance) ** 2 / 2)
    return float(np.mean(genuine) + np.mean(impostor))


def semi_hard(distance: Callable[[int, int], float], labels: Array) -> list[tuple[int, int, int]]:
    triplets = []
    for a in range(len(labels)):
        negatives = sorted((distance(a, n), n) for n in range(len(labels)) if labels[n] != labels[a])
        for p in range(len(labels)):
            if p != a and labels[p] == labels[a] and negatives:
                further = [n for d, n in negatives if d > distance(a, p)]
                triplets.append((a, p, further[0] if further else negatives[-1][1]))
    return triplets


def triplet(distance: Callable[[int, int], float], labels: Array, margin: float) -> float:
    """Over squared distances FaceNet's, over angles that with the margin in the angle."""
    terms = [max(0.0, distance(a, p) - distance(a, n) + margin) for a, p, n in semi_hard(distance, labels)]
    return float(np.mean(terms))


def moved_centers(embeddings: Array, labels: Array, centers: Array, rate: float) -> Array:
    moved = centers.copy()
    for j in range(len(centers)):
        own = [x for x, y in zip(embeddings, labels, strict=True) if y == j]
        moved[j] = centers[j] - rate * sum(centers[j] - x for x in own) / (1 + len(own))
    return moved
