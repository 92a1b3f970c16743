"""The configuration of a training, from a TOML file; each class below is a table of it. Relative paths are taken from
the working folder.
"""

import tomllib
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

_EXACT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, config=_EXACT)
class Data:
    """What is trained on.

    Attributes:
        format: ``folder``, photos with one sub-folder for each person; or ``records``, InsightFace's RecordIO.
        path: the folder, of either.
        identities: a file with one name a line; others are left out. None for all.
        instances: photos of each identity in a batch; losses over pairs and triplets need 2 or more.
        workers: threads that read photos, or cut crops.
        size: of the crops in pixels; this and what follows is for ``folder``.
        min_photos: identities with fewer are left out.
        cache: where the crops are kept; None for ``crops`` inside ``training.out``.
        bundle, data_dir: whose detector and alignment cut them, as the service finds it.
    """

    format: Literal["folder", "records"]
    path: Path
    identities: Path | None = None
    instances: int = Field(default=1, ge=1)
    workers: int = Field(default=2, ge=1)
    size: int = Field(default=112, ge=16, le=1024)
    min_photos: int = Field(default=1, ge=1)
    cache: Path | None = None
    bundle: str = "open"
    data_dir: Path = Path("data")


@dataclass(frozen=True, config=_EXACT)
class Backbone:
    """``models.backbones.make_backbone``'s arguments; ``input_size`` is that of the crops."""

    name: str
    dimension: int = Field(default=512, ge=1)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, config=_EXACT)
class Loss:
    """``models.losses.make_head``'s arguments.

    Attributes:
        sharded: the class centres are shared out over the processes of a ``torchrun``.
        rate: with ``sharded``, which part of the centres a step uses.
    """

    name: str
    parameters: dict[str, Any] = field(default_factory=dict)
    sharded: bool = False
    rate: float = Field(default=1.0, gt=0, le=1)


@dataclass(frozen=True, config=_EXACT)
class Optimiser:
    """Stochastic gradient descent with momentum; weight decay as in the papers.

    Attributes:
        lr: learning rate after the warm-up, up to the first milestone.
        warmup: steps over which it rises linearly from 0.
        milestones: steps from which it is multiplied by ``factor``, each time.
        clip_norm: longer gradients of the backbone are cut to this length; 0 for no limit. 5 is arcface_torch's.
    """

    lr: float = Field(gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    warmup: int = Field(default=0, ge=0)
    milestones: tuple[int, ...] = ()
    factor: float = Field(default=0.1, gt=0, le=1)
    clip_norm: float = Field(default=5.0, ge=0)

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        rate = self.lr * self.factor ** sum(step >= milestone for milestone in self.milestones)
        return rate * min(1.0, (step + 1) / (self.warmup + 1))


@dataclass(frozen=True, config=_EXACT)
class Training:
    """How long, where and how.

    Attributes:
        out: folder for checkpoints and logs, made if it is not there; a training that was interrupted goes on there.
        batch: images of a step, of all processes together.
        steps, epochs: one of the two.
        precision: of the backbone, in mixed precision (on CUDA) or ``fp32``; the loss is computed in float32.
        checkpoint_every, log_every: in steps.
    """

    out: Path
    batch: int = Field(ge=1)
    steps: int | None = Field(default=None, ge=1)
    epochs: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    checkpoint_every: int = Field(default=1000, ge=1)
    log_every: int = Field(default=20, ge=1)

    @model_validator(mode="after")
    def _one_length(self) -> "Training":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(f"give steps or epochs, one of the two, not steps = {self.steps}, epochs = {self.epochs}")
        return self


@dataclass(frozen=True, config=_EXACT)
class Validation:
    """Verification of identities that are not trained on; see ``models.validation``.

    Attributes:
        every: steps between two; after the last step in any case.
        share: of the identities, held out at random.
        identities: a file with one name a line: held out are these, instead of a share.
        pairs: genuine ones, and as many impostor pairs, at most.
        seed: of the share and the pairs.
    """

    every: int = Field(default=1000, ge=1)
    share: float = Field(default=0.0, ge=0, lt=1)
    identities: Path | None = None
    pairs: int = Field(default=3000, ge=10)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _one_choice(self) -> "Validation":
        if self.share and self.identities is not None:
            raise ValueError("give share or identities, not both")
        return self


@dataclass(frozen=True, config=_EXACT)
class Config:
    """A whole training."""

    data: Data
    backbone: Backbone
    loss: Loss
    optimiser: Optimiser
    training: Training
    validation: Validation = field(default_factory=Validation)

    @model_validator(mode="after")
    def _possible(self) -> "Config":
        if self.loss.sharded and self.training.precision == "fp16":
            raise ValueError("a sharded loss cannot be trained in fp16: a step is skipped by all or none; take bf16")
        return self

    def as_json(self) -> dict[str, Any]:
        """Plain values, from which ``parse_config`` makes an equal one."""
        plain: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return plain


_ADAPTER = TypeAdapter(Config)


def read_config(path: Path) -> Config:
    """Read a TOML file.

    Raises:
        ValueError: it cannot be read, or ``parse_config`` refuses it; the message names the file.
    """
    try:
        return parse_config(tomllib.loads(path.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def parse_config(values: dict[str, Any]) -> Config:
    """Check the values of a configuration.

    Raises:
        ValueError: a key that is unknown, missing, or of the wrong type or range; the message names all of them.
    """
    try:
        return _ADAPTER.validate_python(values)
    except ValidationError as error:
        raise ValueError(
            "; ".join(_problem(e["loc"], e["type"], e["msg"], e["input"]) for e in error.errors())
        ) from error


def _problem(place: tuple[int | str, ...], kind: str, message: str, value: object) -> str:
    name = ".".join(map(str, place)) or "the configuration"
    if kind == "unexpected_keyword_argument":
        return f"{name} is not a key that is known"
    if kind == "missing":
        return f"{name} is missing"
    return f"{name}: {message}" + (f" (got {value!r})" if isinstance(value, str | int | float) else "")
