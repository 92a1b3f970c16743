"""Losses over the pairs and triplets of a batch, and the centre loss.

Pure functions of embeddings (B, d) and labels (B,) int64. A batch has pairs of one identity only if the sampler puts
several photos of each into it; where it has none, the terms that need them are 0.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from models.margins import angles


def contrastive(embeddings: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Mean of ½D² over the genuine pairs plus mean of ½ max(0, m − D)² over the impostor pairs, D = ‖x_i − x_j‖.

    Hadsell, Chopra and LeCun 2006, Eq. 4; as in DeepID2 (Sun et al. 2014, arXiv 1406.4773). Each kind has its own
    mean, else the few genuine pairs would drown.

    Args:
        embeddings: unit length.
        margin: m, a distance, 0 to 2.
    """
    first, second = torch.triu_indices(len(labels), len(labels), 1, device=labels.device)
    squared = _squared_distances(embeddings)[first, second]
    genuine = labels[first] == labels[second]
    # The root's derivative is infinite at 0.
    distances = squared[~genuine].clamp(min=torch.finfo(squared.dtype).tiny).sqrt()
    return (_mean(squared[genuine]) + _mean(F.relu(margin - distances) ** 2)) / 2


def triplet(embeddings: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Mean of max(0, D²_ap − D²_an + α) over all genuine pairs (a, p), with a semi-hard n for each.

    FaceNet (Schroff et al. 2015, arXiv 1503.03832, Eq. 3 and 4).

    Args:
        embeddings: unit length.
        margin: α, a squared distance, 0 to 4.
    """
    squared = _squared_distances(embeddings)
    anchor, positive, negative = semi_hard_triplets(squared, labels)
    return _mean(F.relu(squared[anchor, positive] - squared[anchor, negative] + margin))


def angular_triplet(embeddings: Tensor, labels: Tensor, margin_radians: float) -> Tensor:
    """Mean of max(0, θ_ap + m − θ_an) over the same triplets: the margin is moved into the angle.

    From θ_ap + m ≤ θ_an (ArcFace, Deng et al. 2019, arXiv 1801.07698, its comparison with the triplet loss).

    Args:
        embeddings: unit length.
        margin_radians: m, 0 to π.
    """
    theta = angles(embeddings @ embeddings.T)
    anchor, positive, negative = semi_hard_triplets(theta, labels)
    return _mean(F.relu(theta[anchor, positive] - theta[anchor, negative] + margin_radians))


@torch.no_grad()
def semi_hard_triplets(distances: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each ordered genuine pair (a, p): the nearest n that is further from a than p is.

    FaceNet, Eq. 4: hard, but not so hard that training collapses; beyond the margin its term is 0. Where every n is
    nearer than p, the furthest n, the least hard of them. An anchor without any n is left out.

    Args:
        distances: (B, B), any measure that rises with the distance.

    Returns:
        Indices of a, p and n, (T,) int64 each.
    """
    same = labels[:, None] == labels
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    anchor, positive = (same & ~itself & ~same.all(1, keepdim=True)).nonzero(as_tuple=True)
    to_others = distances[anchor].masked_fill(same[anchor], -torch.inf)  # (T, B)
    further = to_others > distances[anchor, positive][:, None]
    nearest_further = to_others.masked_fill(~further, torch.inf).argmin(1)
    return anchor, positive, torch.where(further.any(1), nearest_further, to_others.argmax(1))


def center(embeddings: Tensor, labels: Tensor, centers: Tensor) -> Tensor:
    """L_C = mean of ½‖x_i − c_{y_i}‖² over the batch.

    Center loss (Wen et al. 2016, Eq. 2). The paper does not normalise x.

    Args:
        centers: c, (C, d); they learn by ``moved_centers``, not by this loss's gradient.
    """
    return ((embeddings - centers[labels]) ** 2).sum(1).mean() / 2


@torch.no_grad()
def moved_centers(embeddings: Tensor, labels: Tensor, centers: Tensor, rate: float) -> Tensor:
    """c_j − α Δc_j, Δc_j = Σ_{y_i = j} (c_j − x_i) / (1 + n_j), n_j photos of class j being in the batch; (C, d).

    Center loss (Wen et al. 2016, Eq. 4 and Algorithm 1).

    Args:
        rate: α, 0 to 1.
    """
    sums = torch.zeros_like(centers).index_add_(0, labels, centers[labels] - embeddings)
    counts = torch.bincount(labels, minlength=len(centers))
    return centers - rate * sums / (1 + counts[:, None])


def _squared_distances(embeddings: Tensor) -> Tensor:
    """‖x_i − x_j‖² = 2 − 2 cos θ of unit embeddings, (B, B)."""
    return 2 - 2 * embeddings @ embeddings.T


def _mean(values: Tensor) -> Tensor:
    """The mean, and 0 of none; connected to the embeddings in either case."""
    return values.sum() / max(1, len(values))
