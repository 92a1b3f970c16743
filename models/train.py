"""Train a backbone: ``python -m models.train CONFIG.toml``. Read ``train`` from top to bottom.

In the folder ``training.out``::

    state-….pt           the newest checkpoint, from which an interrupted training goes on (models/resume.py)
    best.pt  last.pt     the backbone at the best validation (accuracy), and at the end
    log.jsonl            a line for every ``log_every`` steps and for every validation
    events.out…          the same for TensorBoard, where the package ``tensorboard`` is installed

With ``torchrun`` each process takes its part of every batch. On the CPU a training that was interrupted ends with the
same weights, bit for bit, as one that was not, given as many threads; on a GPU that is not promised.
"""

import argparse
import math
import sys
from pathlib import Path

import torch
from torch import nn

from models.batches import Batches
from models.checkpoint import Card, save_checkpoint
from models.config import Config, read_config
from models.data import load_data
from models.embed import TorchEmbedder, network_input
from models.log import Log
from models.losses import make_head, make_sharded_head
from models.processes import choose_device, data_parallel, first_before_others, join_processes, leave_processes
from models.resume import State
from models.validation import Verification
from service.errors import LikenessError
from service.progress import bar

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def train(config: Config) -> dict[str, float]:
    """Train, or go on with a training that was interrupted.

    Returns:
        The figures of the last validation; empty where no identities are held out.

    Raises:
        ValueError: something in the configuration, the data or the folder's checkpoints cannot be used.
    """
    rank, processes = join_processes(config.training.device)
    device = choose_device(config.training.device)
    out, batch_size = config.training.out, config.training.batch
    out.mkdir(parents=True, exist_ok=True)

    # Data. The first process cuts the crops; the others find them in the cache.
    faces, held_out = first_before_others(lambda: load_data(config))
    batches = Batches(faces, config.data, batch_size, config.training.seed, rank, processes)
    steps = config.training.steps or batches.per_epoch * (config.training.epochs or 0)
    verify = Verification(held_out, config.validation.pairs, config.validation.seed) if held_out else None

    # Network, loss, optimiser.
    card = Card(
        name=config.backbone.name,
        options=config.backbone.options,
        dimension=config.backbone.dimension,
        alignment=faces.alignment,
        loss=config.loss.name,
        loss_parameters=config.loss.parameters,
        trained_on={"identities": len(faces.identities), "photos": len(faces), "crops": faces.digest},
        config=config.as_json(),
    )
    torch.manual_seed(config.training.seed)
    backbone = card.build().to(device)
    head = build_head(config, len(faces.identities)).to(device)
    optimiser = torch.optim.SGD(
        [*backbone.parameters(), *head.parameters()],
        lr=config.optimiser.lr,
        momentum=config.optimiser.momentum,
        weight_decay=config.optimiser.weight_decay,
    )
    precision = PRECISIONS[config.training.precision]
    scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
    # To each process its own dropout; the initial weights are those of the first.
    torch.manual_seed(config.training.seed + rank)

    # Go on where an earlier run was interrupted.
    state = State(out, rank, processes, backbone, head, optimiser, scaler)
    card, best = state.restore(card)
    start = card.step
    features_of, loss_of = data_parallel(backbone), head if config.loss.sharded else data_parallel(head)
    backbone.train()
    head.train()

    with (
        Log(out, start, silent=rank > 0) as log,
        bar(steps * batch_size, "training", "img", silent=rank > 0) as progress,
    ):
        progress.n = progress.initial = start * batch_size
        for step, batch in zip(range(start + 1, steps + 1), batches.following(start), strict=False):
            rate = config.optimiser.rate_at(step - 1)
            for group in optimiser.param_groups:
                group["lr"] = rate
            pixels = torch.from_numpy(batch.images).to(device, non_blocking=True)  # (B, s, s, 3) uint8
            labels = torch.from_numpy(batch.labels).to(device, non_blocking=True)  # (B,)
            with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                features = features_of(network_input(pixels, card.channel_order, card.mean, card.scale))  # (B, d)
            loss = loss_of(features, labels)  # in float32, see models.heads
            optimiser.zero_grad()
            scaler.scale(loss).backward()
            if config.optimiser.clip_norm:
                scaler.unscale_(optimiser)
                nn.utils.clip_grad_norm_(backbone.parameters(), config.optimiser.clip_norm)
            scaler.step(optimiser)
            scaler.update()
            progress.update(batch_size)

            if step % config.training.log_every == 0 or step == steps:
                if not math.isfinite(value := loss.item()):
                    raise ValueError(f"the loss is {value} at step {step}; try a lower learning rate, or a warm-up")
                progress.set_postfix(loss=f"{value:.4f}", refresh=False)
                log.write(step, {"loss": value, "lr": rate, "epoch": step / batches.per_epoch})
            if verify and (step % config.validation.every == 0 or step == steps):
                figures = verify(TorchEmbedder(backbone.eval(), card.channel_order, card.mean, card.scale))
                backbone.train()
                card = card.model_copy(update={"step": step, "validation": figures})
                log.write(step, figures)
                if figures["accuracy"] > best:
                    best = figures["accuracy"]
                    if rank == 0:
                        save_checkpoint(out / "best.pt", backbone, card)
            if step % config.training.checkpoint_every == 0 and step < steps:
                log.flush()
                state.save(card.model_copy(update={"step": step}), best)
    if rank == 0:
        save_checkpoint(out / "last.pt", backbone, card.model_copy(update={"step": steps}))
    leave_processes()
    return card.validation


def build_head(config: Config, classes: int) -> nn.Module:
    """The loss of the configuration, with class centres of its own where it has any."""
    loss = config.loss
    if loss.sharded:
        return make_sharded_head(
            loss.name, classes, config.backbone.dimension, loss.rate, config.training.seed, **loss.parameters
        )
    return make_head(loss.name, classes, config.backbone.dimension, **loss.parameters)


def main() -> int:
    """Exit codes: 0 trained, 2 something cannot be used, as the message says."""
    parser = argparse.ArgumentParser(prog="python -m models.train", description="Train a backbone for faces.")
    parser.add_argument("config", type=Path, metavar="CONFIG.toml", help="see models/config.py")
    args = parser.parse_args()
    try:
        figures = train(read_config(args.config))
    except (ValueError, LikenessError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    for name, value in figures.items():
        print(f"{name} {value:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
