"""Sharded heads in two real processes (torchrun, gloo) against one process with all the centres."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import loss_oracle as oracle
import numpy as np
import pytest
import sharded_worker as worker
import torch
from sharded_worker import BATCH, CLASSES, COMPARED, DIMENSION, STEPS, batch_labels, made_up
from torch import Tensor, nn

from models.losses import make_head, make_sharded_head

ROOT = Path(__file__).resolve().parents[2]
Seen = list[dict[str, Any]]  # by rank


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """What the two processes wrote."""
    folder = tmp_path_factory.mktemp("sharded")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, worker.__file__, str(folder)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]


def whole(name: str, classes: int, parameters: dict[str, Any], labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and gradients of embeddings and centres, of one process."""
    head = make_head(name, classes, DIMENSION, **parameters).double()
    centers = head.get_parameter("centers")
    with torch.no_grad():
        centers.copy_(made_up(2, classes, DIMENSION))
    embeddings = made_up(1, 2 * BATCH, DIMENSION).requires_grad_()
    loss = head(embeddings, labels)
    loss.backward()
    assert embeddings.grad is not None
    assert centers.grad is not None
    return loss.detach(), embeddings.grad, centers.grad


def assert_same(steps: Seen, expected: tuple[Tensor, Tensor, Tensor]) -> None:
    loss, embeddings, centers = expected
    for step in steps:
        assert step["loss"] == pytest.approx(loss.item(), rel=1e-12)
    # Twice: DistributedDataParallel takes the mean over the processes.
    torch.testing.assert_close(torch.cat([s["embeddings"] for s in steps]), 2 * embeddings, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(torch.cat([s["centers"] for s in steps]), centers, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("index", range(len(COMPARED)), ids=[name for name, _ in COMPARED])
def test_loss_and_gradients_are_those_of_one_process(seen: Seen, index: int) -> None:
    name, parameters = COMPARED[index]
    assert [rank["compared"][index]["first"] for rank in seen] == [0, 3]
    assert_same([rank["compared"][index] for rank in seen], whole(name, CLASSES, parameters, batch_labels(CLASSES)))


def test_a_process_may_own_nothing_but_the_class_of_all_photos(seen: Seen) -> None:
    labels = torch.ones(2 * BATCH, dtype=torch.int64)
    assert_same([rank["one_class_each"] for rank in seen], whole("arcface", 2, {}, labels))


def test_a_large_scale_does_not_overflow_float32(seen: Seen) -> None:
    loss, _, _ = whole("arcface", CLASSES, {"scale": 1e4}, batch_labels(CLASSES))
    for rank in seen:
        assert rank["large_scale"]["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert rank["large_scale"]["dtype"] == torch.float32
        assert rank["large_scale"]["centers"].isfinite().all()
        assert rank["large_scale"]["centers"].abs().max() > 1


def test_training_with_data_parallel_is_training_in_one_process(seen: Seen) -> None:
    backbone = nn.Linear(6, DIMENSION).double()
    head = make_head("arcface", CLASSES, DIMENSION, scale=8.0).double()
    with torch.no_grad():
        backbone.weight.copy_(made_up(3, DIMENSION, 6))
        backbone.bias.zero_()
        head.get_parameter("centers").copy_(made_up(2, CLASSES, DIMENSION))
    optimizer = torch.optim.SGD([*backbone.parameters(), *head.parameters()], lr=0.1, momentum=0.9)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = head(backbone(made_up(10 + step, 2 * BATCH, 6)), batch_labels(CLASSES, step))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    for rank in seen:
        assert rank["trained"]["losses"] == pytest.approx(losses, rel=1e-11)
        torch.testing.assert_close(rank["trained"]["weight"], backbone.weight.detach(), rtol=1e-10, atol=1e-12)
    centers = torch.cat([rank["trained"]["centers"] for rank in seen])
    torch.testing.assert_close(centers, head.get_parameter("centers").detach(), rtol=1e-10, atol=1e-12)


def taken(steps: Seen) -> list[int]:
    """The classes that have a gradient."""
    return torch.cat([step["centers"] for step in steps]).abs().sum(1).nonzero()[:, 0].tolist()


def test_a_sample_holds_the_classes_of_the_batch_and_as_many_as_the_rate_says(seen: Seen) -> None:
    labels = batch_labels(40)
    samples = [taken([rank["sampled"]["steps"][step] for rank in seen]) for step in range(STEPS)]
    present = {rank: {int(y) for y in labels if y // 20 == rank} for rank in (0, 1)}
    for sample in samples:
        for rank in (0, 1):
            own = {k for k in sample if k // 20 == rank}
            assert present[rank] <= own
            assert len(own) == 6  # 0.3 of 20; no more than 6 are present
    assert all(0 < len(present[rank]) < 6 for rank in (0, 1))
    assert len({tuple(sample) for sample in samples}) == STEPS
    assert {k for k in samples[0] if k < 20} != {k - 20 for k in samples[0] if k >= 20}


def test_the_loss_of_a_sample_is_the_formula_over_it(seen: Seen) -> None:
    labels, centers = batch_labels(40).numpy(), made_up(2, 40, DIMENSION).numpy()
    for step in range(STEPS):
        steps = [rank["sampled"]["steps"][step] for rank in seen]
        sample = taken(steps)
        losses = oracle.softmax_losses(
            made_up(1, 2 * BATCH, DIMENSION).numpy(),
            np.array([sample.index(y) for y in labels]),
            centers[sample],
            32.0,
            lambda theta: np.cos(theta) - 0.35,
            lambda cosine, indicator: np.exp(32 * 0.2 * (cosine + 1) * indicator),
        )
        assert [one["loss"] for one in steps] == pytest.approx([np.mean(losses)] * 2, rel=1e-10)


def test_a_resumed_training_draws_the_same_sample(seen: Seen) -> None:
    following, resumed = ([rank["sampled"][which] for rank in seen] for which in ("next", "resumed"))
    assert taken(following) == taken(resumed)
    assert following[0]["loss"] == resumed[0]["loss"]
    assert taken(following) != taken([rank["sampled"]["steps"][0] for rank in seen])


def test_in_evaluation_all_classes_are_used(seen: Seen) -> None:
    assert_same([rank["sampled"]["evaluated"] for rank in seen], whole("sv-am-softmax", 40, {}, batch_labels(40)))


def test_a_small_rate_leaves_other_classes_to_differ_from(seen: Seen) -> None:
    few = [rank["sampled"]["few"] for rank in seen]
    assert len(taken(few)) == 4
    assert 3 in taken(few)
    assert few[0]["loss"] == few[1]["loss"] > 0


def test_initial_centres_of_two_processes_differ(seen: Seen) -> None:
    first, second = (rank["initial"] for rank in seen)
    assert first.shape == second.shape == (500, 64)
    assert first.std().item() == pytest.approx(0.01, rel=0.05)
    cosines = nn.functional.normalize(first) @ nn.functional.normalize(second).T
    assert cosines.max() < 0.8


def test_what_cannot_be_sharded_is_refused_on_every_process(seen: Seen) -> None:
    said = [
        f"labels are 0 to {CLASSES - 1}, not 0 to {CLASSES}",
        f"embeddings are (B, {DIMENSION}) with B ≥ 1, not ({BATCH}, {DIMENSION - 1})",
        "the loss 'softmax' cannot be sharded; those with a scale can",
        "a sharded head needs a fixed scale, but this loss scales by the embedding's length",
        "the loss 'triplet' cannot be sharded; those with a scale can",
        "rate is above 0 up to 1, not 0.0",
        "rate is above 0 up to 1, not 1.5",
        "the loss 'arcface': scale = -1: Input should be greater than 0",
        f"classes are 2 or more and the dimension 1 or more, not 1 and {DIMENSION}",
    ]
    assert [rank["refused"] for rank in seen] == [said, said]


def test_without_a_process_group_the_remedy_is_named() -> None:
    with pytest.raises(RuntimeError, match="start with torchrun"):
        make_sharded_head("arcface", CLASSES, DIMENSION)
