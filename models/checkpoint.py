"""Checkpoints: a trained backbone with all that is needed to use it, in one file.

The file is what ``torch.save`` makes of this dictionary of tensors and JSON-like values, so that it loads with
``weights_only=True`` and runs nothing::

    format    "likeness-checkpoint"
    version   1
    card      Card, as JSON-like values
    backbone  its state_dict
    training  only in those that a training resumes from: see models/train.py
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from models.backbones import make_backbone
from service.runtime.card import Alignment

FORMAT = "likeness-checkpoint"
VERSION = 1


class Card(BaseModel):
    """What a backbone is, what it takes, and where it comes from.

    The network takes ``(pixel − mean) / scale`` of aligned crops with pixels in 0..255, float (B, 3, s, s) with
    s = ``alignment.size``, and gives features (B, ``dimension``), not of unit length. Embeddings are meant to be the
    sum of the features of a crop and of its mirror image, scaled to unit length; validation during training does so.

    Attributes:
        name, options: of ``models.backbones.make_backbone``; ``input_size`` is not among the options, it is
            ``alignment.size``.
        channel_order: of the input.
        alignment: how the crops were cut that it was trained on; serving has to do the same.
        loss: the name in ``models.losses``, with ``loss_parameters`` as they differ from the defaults.
        trained_on: which data, JSON-like: identities, photos, digest of the crops.
        config: the whole configuration of the training, JSON-like.
        step: updates made.
        validation: figures of the last validation before, by name; empty without one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    options: dict[str, Any] = Field(default_factory=dict)
    dimension: int = Field(ge=1)
    channel_order: Literal["RGB", "BGR"] = "RGB"
    mean: float = 127.5
    scale: Annotated[float, Field(gt=0)] = 127.5
    alignment: Alignment
    loss: str
    loss_parameters: dict[str, Any] = Field(default_factory=dict)
    trained_on: dict[str, Any] = Field(default_factory=dict)
    config: dict[str, Any] = Field(default_factory=dict)
    step: int = Field(default=0, ge=0)
    validation: dict[str, float] = Field(default_factory=dict)

    def build(self) -> nn.Module:
        """The network with fresh weights, in training mode.

        Raises:
            ValueError: an unknown name or option.
        """
        size = self.alignment.size
        return make_backbone(self.name, self.dimension, input_size=(size, size), **self.options)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint that was read.

    Attributes:
        backbone: on the CPU, in evaluation mode, with the trained weights.
        training: what a training resumes from; None in checkpoints that are for use only.
    """

    backbone: nn.Module
    card: Card
    training: dict[str, Any] | None = None


def save_checkpoint(path: Path, backbone: nn.Module, card: Card, training: Mapping[str, Any] | None = None) -> None:
    """Write the file whole or not at all, on the disk when this returns; the folder must be there.

    Args:
        training: tensors and JSON-like values.
    """
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "card": card.model_dump(mode="json"),
        # A plain dictionary: the state_dict's own class takes attributes along.
        "backbone": {name: tensor.detach().cpu() for name, tensor in backbone.state_dict().items()},
    }
    if training is not None:
        content["training"] = dict(training)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; nothing that it contains is run.

    Raises:
        ValueError: the file is missing, damaged, no checkpoint of this layout and version, or its weights are not
            those of the network that its card describes.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle or zip file ends in nearly any exception
        raise ValueError(f"{path} cannot be read as a checkpoint: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of models.train: it has no format {FORMAT!r}")
    if content.get("version") != VERSION:
        raise ValueError(f"{path} is a checkpoint of version {content.get('version')!r}; this program reads {VERSION}")
    try:
        card = Card.model_validate(content["card"])
        backbone = card.build()
        backbone.load_state_dict(_tensors(content["backbone"]))
    except (ValidationError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return Checkpoint(backbone.eval(), card, content.get("training"))


def _tensors(value: object) -> dict[str, Tensor]:
    if not isinstance(value, dict) or not all(isinstance(tensor, Tensor) for tensor in value.values()):
        raise ValueError("its backbone is not a dictionary of tensors")
    return value
