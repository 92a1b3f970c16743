"""The state of a training on the disk, from which it goes on after an interruption.

``state-STEP-RANKofPROCESSES.pt`` is a checkpoint (``models.checkpoint``) whose key ``training`` holds

- ``head``, ``optimiser``, ``scaler``: their ``state_dict``;
- ``rng``: the states of torch's random number generators, by type of device;
- ``best``: the best accuracy in validation so far, None before the first.

The place in the data, the mirroring and the learning rate follow from the card's ``step``.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from models.checkpoint import Card, load_checkpoint, save_checkpoint
from models.processes import wait_for_all

NAME = re.compile(r"state-(\d+)-(\d+)of(\d+)\.pt")


@dataclass(frozen=True, eq=False)
class State:
    """What of a training changes with its steps, and the folder that it is kept in."""

    folder: Path
    rank: int
    processes: int
    backbone: nn.Module
    head: nn.Module
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    def restore(self, card: Card) -> tuple[Card, float]:
        """Take on the newest state of the folder, if there is one.

        Args:
            card: of the training as it begins.

        Returns:
            The card, with the step to go on after, and the best accuracy so far, −∞ before the first validation.

        Raises:
            ValueError: the state is of another configuration, other data or another number of processes, or damaged.
        """
        step = self._newest()
        if step is None:
            return card, -float("inf")
        path = self._path(step)
        checkpoint = load_checkpoint(path)
        if different := sorted(_differences(checkpoint.card, card)):
            raise ValueError(
                f"{path} is of a training that differs in {', '.join(different)}; "
                "go on with the configuration and data of that one, or give another folder as training.out"
            )
        training = checkpoint.training or {}
        self.backbone.load_state_dict(checkpoint.backbone.state_dict())
        self.head.load_state_dict(training["head"])
        self.optimiser.load_state_dict(training["optimiser"])
        self.scaler.load_state_dict(training["scaler"])
        _set_generators(training["rng"])
        return checkpoint.card, -float("inf") if training["best"] is None else training["best"]

    def save(self, card: Card, best: float) -> None:
        """Keep the state after ``card.step``; the one before is removed when every process has kept its own."""
        training = {
            "head": self.head.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": _generators(),
            "best": best if best > -float("inf") else None,
        }
        save_checkpoint(self._path(card.step), self.backbone, card, training)
        wait_for_all()
        for step, rank, _ in self._kept():
            if rank == self.rank and step != card.step:
                self._path(step).unlink()

    def _path(self, step: int) -> Path:
        return self.folder / f"state-{step:08d}-{self.rank}of{self.processes}.pt"

    def _kept(self) -> list[tuple[int, int, int]]:
        """Step, rank and number of processes of each state in the folder."""
        matches = [NAME.fullmatch(path.name) for path in self.folder.iterdir()]
        return [(int(m[1]), int(m[2]), int(m[3])) for m in matches if m]

    def _newest(self) -> int | None:
        """The last step that every process has kept."""
        kept = self._kept()
        if other := {processes for _, _, processes in kept} - {self.processes}:
            raise ValueError(
                f"{self.folder} has the state of a training by {other.pop()} processes, not {self.processes}"
            )
        ranks = {step: [rank for kept_step, rank, _ in kept if kept_step == step] for step, _, _ in kept}
        return max((step for step, found in ranks.items() if len(found) == self.processes), default=None)


def _differences(kept: Card, given: Card) -> set[str]:
    """Keys of the configuration, or of what was trained on, whose values differ."""
    ours, theirs = _flat(given), _flat(kept)
    return {key for key in ours | theirs if ours.get(key) != theirs.get(key)}


def _flat(card: Card) -> dict[str, object]:
    flat: dict[str, object] = dict(card.trained_on)
    for table, values in card.config.items():
        flat.update({f"{table}.{key}": value for key, value in values.items()})
    return flat


def _generators() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_generators(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
