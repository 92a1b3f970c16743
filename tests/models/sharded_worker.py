"""What each process of ``test_sharded`` runs under torchrun; it writes what it saw to ``rank0.pt`` or ``rank1.pt``.

Each function is one scenario, in float64, and returns plain values and tensors.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.losses import make_sharded_head
from models.sharded import ShardedMarginHead

CLASSES, DIMENSION, BATCH = 7, 5, 4  # of 2 processes: 3 and 4 classes, 8 samples
STEPS = 3

# (name, parameters): every kind of margin, emphasis and average.
COMPARED: list[tuple[str, dict[str, Any]]] = [
    ("normface", {"scale": 12.0}),
    ("cosface", {}),
    ("arcface", {}),
    ("combined-margin", {"multiple": 2.3, "margin_radians": 0.9}),
    ("sv-softmax", {"t": 1.4}),
    ("sv-am-softmax", {}),
    ("sv-arc-softmax", {"margin_radians": 1.1}),
    ("mv-am-softmax", {"adaptive": False}),
    ("f-softmax", {"scale": 3.0}),
    ("hm-softmax", {"kept": 0.4}),
]


def made_up(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch_labels(classes: int, step: int = 0) -> Tensor:
    """(2 × BATCH,), of both processes; over all classes but one."""
    return torch.randint(0, classes - 1, (2 * BATCH,), generator=torch.Generator().manual_seed(50 + step))


def own_part(tensor: Tensor) -> Tensor:
    return tensor.chunk(2)[dist.get_rank()]


def sharded(name: str, classes: int, centers: Tensor, **options: Any) -> ShardedMarginHead:
    head = make_sharded_head(name, classes, DIMENSION, **options).double()
    with torch.no_grad():
        head.head.centers.copy_(centers[head.first : head.first + len(head.head.centers)])
    return head


def one_step(head: ShardedMarginHead, labels: Tensor) -> dict[str, Any]:
    head.zero_grad()
    embeddings = own_part(made_up(1, 2 * BATCH, DIMENSION)).clone().requires_grad_()
    loss = head(embeddings, own_part(labels))
    loss.backward()
    assert head.head.centers.grad is not None
    return {
        "loss": loss.item(),
        "embeddings": embeddings.grad,
        "centers": head.head.centers.grad.clone(),
        "first": head.first,
    }


def compared() -> list[dict[str, Any]]:
    return [
        one_step(sharded(name, CLASSES, made_up(2, CLASSES, DIMENSION), **parameters), batch_labels(CLASSES))
        for name, parameters in COMPARED
    ]


def one_class_each() -> dict[str, Any]:
    head = sharded("arcface", 2, made_up(2, 2, DIMENSION))
    return one_step(head, torch.ones(2 * BATCH, dtype=torch.int64))


def large_scale() -> dict[str, Any]:
    head = sharded("arcface", CLASSES, made_up(2, CLASSES, DIMENSION), scale=1e4).float()
    loss = head(own_part(made_up(1, 2 * BATCH, DIMENSION)).float(), own_part(batch_labels(CLASSES)))
    loss.backward()
    assert head.head.centers.grad is not None
    return {"loss": loss.item(), "dtype": loss.dtype, "centers": head.head.centers.grad}


def trained() -> dict[str, Any]:
    """Some steps of SGD of a backbone under DistributedDataParallel."""
    backbone = nn.Linear(6, DIMENSION).double()
    with torch.no_grad():
        backbone.weight.copy_(made_up(3, DIMENSION, 6))
        backbone.bias.zero_()
    network = DistributedDataParallel(backbone)
    head = sharded("arcface", CLASSES, made_up(2, CLASSES, DIMENSION), scale=8.0)
    optimizer = torch.optim.SGD([*network.parameters(), *head.parameters()], lr=0.1, momentum=0.9)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = head(network(own_part(made_up(10 + step, 2 * BATCH, 6))), own_part(batch_labels(CLASSES, step)))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return {"losses": losses, "weight": backbone.weight.detach(), "centers": head.head.centers.detach()}


def sampled() -> dict[str, Any]:
    """Steps at a rate of 0.3 of 20 and 20 classes; one more after a resumption; one in evaluation."""
    centers = made_up(2, 40, DIMENSION)
    head = sharded("sv-am-softmax", 40, centers, rate=0.3, seed=9)
    steps = [one_step(head, batch_labels(40)) for _ in range(STEPS)]
    resumed = sharded("sv-am-softmax", 40, centers, rate=0.3, seed=9)
    resumed.load_state_dict(head.state_dict())
    few = sharded("normface", 40, centers, rate=0.01)
    return {
        "steps": steps,
        "next": one_step(head, batch_labels(40)),
        "resumed": one_step(resumed, batch_labels(40)),
        "evaluated": one_step(head.eval(), batch_labels(40)),
        "few": one_step(few, torch.full((2 * BATCH,), 3)),
    }


def initial() -> Tensor:
    torch.manual_seed(1)  # the same on both, as the backbone needs it
    return make_sharded_head("arcface", 1000, 64, seed=5).head.centers.detach()


def refused() -> list[str]:
    said = []
    head = sharded("arcface", CLASSES, made_up(2, CLASSES, DIMENSION))
    embeddings, labels = made_up(1, BATCH, DIMENSION), torch.zeros(BATCH, dtype=torch.int64)
    for attempt in (
        lambda: head(embeddings, labels + CLASSES * dist.get_rank()),  # wrong on one process only
        lambda: head(embeddings[:, 1:], labels),
        lambda: make_sharded_head("softmax", CLASSES, DIMENSION),
        lambda: make_sharded_head("am-softmax-without-fn", CLASSES, DIMENSION),
        lambda: make_sharded_head("triplet", CLASSES, DIMENSION),
        lambda: make_sharded_head("arcface", CLASSES, DIMENSION, rate=0.0),
        lambda: make_sharded_head("arcface", CLASSES, DIMENSION, rate=1.5),
        lambda: make_sharded_head("arcface", CLASSES, DIMENSION, scale=-1),
        lambda: make_sharded_head("arcface", 1, DIMENSION),
    ):
        try:
            attempt()
        except ValueError as error:
            said.append(str(error))
    return said


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    scenarios = (compared, one_class_each, large_scale, trained, sampled, initial, refused)
    results = {scenario.__name__: scenario() for scenario in scenarios}
    torch.save(results, Path(sys.argv[1]) / f"rank{dist.get_rank()}.pt")
    dist.destroy_process_group()
