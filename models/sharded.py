"""Heads for many identities: the class centres are shared out over the processes that ``torchrun`` starts.

Partial FC (An et al. 2022, arXiv 2203.15565). Each process (rank) owns a slice of the centres and computes the
cosines of the embeddings of all processes to it; the softmax's denominator is summed over all. With a rate r < 1,
each step of training takes from each slice the classes that occur in the batch and, at random, others, until they are
r of the slice.

Put only the backbone into ``DistributedDataParallel``. The loss is the mean over the batches of all processes, the
same on each. The centres get that loss's own gradient; what goes back to the embeddings is multiplied by the number
of processes, since ``DistributedDataParallel`` divides by it.
"""

import math
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from models.heads import CENTER_DEVIATION, MarginHead, MarginSoftmax, check_batch, full_precision


class ShardedMarginHead(nn.Module):
    """What ``MarginHead`` computes, with the centres shared out; every process must give as many embeddings.

    A centre that a step leaves out has the gradient 0; an optimiser with momentum or weight decay still moves it.

    Attributes:
        head: this process's slice.
        first: the class of the slice's first centre; ``classes * rank // processes``.
        iteration: samples drawn so far; rank, seed and this determine the next one, so that a resumed training
            draws the same.
    """

    iteration: Tensor

    def __init__(self, classes: int, dimension: int, loss: MarginSoftmax, rate: float = 1.0, seed: int = 0) -> None:
        """To be called once the process group is there.

        Args:
            classes: C, of all processes together.
            loss: with a fixed scale.
            rate: r, above 0 up to 1.
            seed: of the initial centres and of the samples, ≥ 0, the same on every process.

        Raises:
            RuntimeError: there is no process group.
            ValueError: the loss has no fixed scale, the rate is out of range, or a process would own no class.
        """
        super().__init__()
        if not dist.is_initialized():
            raise RuntimeError("no process group: start with torchrun and call torch.distributed.init_process_group")
        self.rank, processes = dist.get_rank(), dist.get_world_size()
        if loss.scale is None:
            raise ValueError("a sharded head needs a fixed scale, but this loss scales by the embedding's length")
        if not 0 < rate <= 1:
            raise ValueError(f"rate is above 0 up to 1, not {rate}")
        if classes < max(2, processes):
            raise ValueError(f"{classes} classes cannot be shared out over {processes} processes")
        self.classes, self.scale, self.rate, self.seed = classes, loss.scale, rate, seed
        self.first = classes * self.rank // processes
        self.head = MarginHead(classes * (self.rank + 1) // processes - self.first, dimension, loss)
        # Ranks that were seeded alike, for the sake of the backbone, must not draw the same centres.
        nn.init.normal_(self.head.centers, std=CENTER_DEVIATION, generator=self._generator(0))
        self.register_buffer("iteration", torch.zeros((), dtype=torch.int64))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of the batches of all processes, a scalar.

        Args:
            embeddings: (B, d), this process's.
            labels: (B,) int64, 0 to C − 1: classes of any slice.

        Raises:
            ValueError: shapes, types or labels are not those of the interface.
        """
        check_batch(embeddings, labels, self.head.centers.shape[1])
        labels = _gather(labels)  # (N,), N = B × processes
        if not ((labels >= 0) & (labels < self.classes)).all():
            raise ValueError(f"labels are 0 to {self.classes - 1}, not {labels.min()} to {labels.max()}")
        local = labels - self.first
        rows = ((local >= 0) & (local < len(self.head.centers))).nonzero()[:, 0]  # whose own class is in this slice
        columns = local[rows]
        with full_precision(embeddings):
            centers: Tensor = self.head.centers
            if self.rate < 1 and self.training:
                taken = self.sample(torch.unique(columns))
                centers, columns = centers[taken], torch.searchsorted(taken, columns)
            features = _gather_embeddings(F.normalize(embeddings.to(centers.dtype)))  # (N, d)
            cosines = features @ F.normalize(centers).T  # (N, K)
            target = self.head.margin(_sum(cosines.new_zeros(len(labels)).index_put((rows,), cosines[rows, columns])))
            # Detached, as _sum demands; all that log h takes from it is the indicator, which has no gradient.
            others = self.head.others(cosines, target.detach()[:, None], self.scale)
            others = others.index_put((rows, columns), others.new_tensor(-torch.inf))
            return self.head.average(_cross_entropy(self.scale * target, others))

    def sample(self, present: Tensor) -> Tensor:
        """The classes that this step takes from the slice: those present, and a random choice of the others.

        Args:
            present: (P,) int64, unique, counted from the slice's first.

        Returns:
            (K,) int64, rising.
        """
        size = len(self.head.centers)
        self.iteration += 1
        chance = torch.rand(size, generator=self._generator(int(self.iteration)), device=present.device)
        chance[present] = 2  # above all that rand gives
        # Two, so that a batch of a single class on a single process has another to differ from.
        count = min(size, max(2, len(present), math.ceil(self.rate * size)))
        return chance.topk(count).indices.sort().values

    def _generator(self, step: int) -> torch.Generator:
        """Random numbers of this rank and step; a plain sum with the seed would repeat those of other ranks."""
        state = np.random.SeedSequence((self.seed, self.rank, step)).generate_state(1, np.uint64)
        return torch.Generator(self.head.centers.device).manual_seed(int(state[0]))


def _cross_entropy(target: Tensor, others: Tensor) -> Tensor:
    """log(1 + Σ_k e^{z_k − z_y}), (N,), the sum being over the classes of all processes.

    Args:
        target: z_y, (N,), the same on each process.
        others: z_k, (N, K), of this process's classes; −∞ in the sample's own.
    """
    largest = others.detach().amax(1)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    sums = _sum(torch.exp(others - largest[:, None]).sum(1))
    difference = largest + torch.log(sums) - target
    return torch.logaddexp(difference, torch.zeros_like(difference))


def _gather(tensor: Tensor) -> Tensor:
    """The tensors of all processes, one below the other."""
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def _gather_embeddings(embeddings: Tensor) -> Tensor:
    """``_gather``; backward adds up what the slices say of each embedding, times the number of processes."""
    gathered: Tensor = _GatherEmbeddings.apply(embeddings)  # type: ignore[no-untyped-call]
    return gathered


def _sum(part: Tensor) -> Tensor:
    """The sum over all processes. What follows must be the same on each; then the gradient passes as it is."""
    total: Tensor = _Sum.apply(part)  # type: ignore[no-untyped-call]
    return total


class _GatherEmbeddings(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embeddings: Tensor) -> Tensor:  # noqa: ARG004
        return _gather(embeddings)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()] * dist.get_world_size()


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:  # noqa: ARG004
        total = part.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return gradient
