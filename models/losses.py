"""The losses by name, as a training's configuration gives them, with the papers' defaults.

Each function below is a name (``sv_am_softmax`` is "sv-am-softmax"), and its keyword arguments are the parameters that
may be set. The formulas are in ``models.margins``, ``models.mining`` and ``models.pairwise``. Margins inside an angle
are named ``margin_radians``, others are cosine units or distances.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field, ValidationError, validate_call
from torch import nn

from models import margins, mining, pairwise
from models.heads import AnnealedSphereFace, CenterHead, MarginHead, MarginSoftmax, PairwiseHead, SoftmaxHead
from models.sharded import ShardedMarginHead

Scale = Annotated[float, Field(gt=0, allow_inf_nan=False)]
CosineMargin = Annotated[float, Field(ge=0, le=2)]
AngularMargin = Annotated[float, Field(ge=0, le=math.pi)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
AtLeastOne = Annotated[float, Field(ge=1, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, le=1)]

HeadBuilder = Callable[[int, int], nn.Module]  # of the number of classes and the dimension


def softmax() -> HeadBuilder:
    return SoftmaxHead


def modified_softmax() -> MarginSoftmax:
    return MarginSoftmax()


def normface(*, scale: Scale = 30.0) -> MarginSoftmax:
    return MarginSoftmax(scale=scale)


def sphereface(
    *,
    multiple: Annotated[int, Field(ge=1)] = 4,
    base: NotNegative = 1000.0,
    gamma: NotNegative = 0.12,
    power: NotNegative = 1.0,
    minimum: NotNegative = 5.0,
) -> MarginSoftmax:
    return MarginSoftmax(AnnealedSphereFace(multiple, base, gamma, power, minimum))


def cosface(*, scale: Scale = 64.0, margin: CosineMargin = 0.35) -> MarginSoftmax:
    return MarginSoftmax(partial(margins.cosface, margin=margin), scale)


def am_softmax(*, scale: Scale = 30.0, margin: CosineMargin = 0.35) -> MarginSoftmax:
    return cosface(scale=scale, margin=margin)


def am_softmax_without_fn(*, margin: CosineMargin = 0.35) -> MarginSoftmax:
    """Without feature normalisation."""
    return MarginSoftmax(partial(margins.cosface, margin=margin))


def arcface(*, scale: Scale = 64.0, margin_radians: AngularMargin = 0.5) -> MarginSoftmax:
    return MarginSoftmax(partial(margins.arcface, margin_radians=margin_radians), scale)


def combined_margin(
    *,
    scale: Scale = 64.0,
    multiple: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0,
    margin_radians: AngularMargin = 0.3,
    margin: CosineMargin = 0.2,
) -> MarginSoftmax:
    margin_of = partial(margins.combined, multiple=multiple, margin_radians=margin_radians, margin=margin)
    return MarginSoftmax(margin_of, scale)


def sv_softmax(*, scale: Scale = 32.0, t: AtLeastOne = 1.2) -> MarginSoftmax:
    return replace(normface(scale=scale), emphasis=partial(mining.support_vector_emphasis, scale=scale, t=t))


def sv_am_softmax(*, scale: Scale = 32.0, margin: CosineMargin = 0.35, t: AtLeastOne = 1.2) -> MarginSoftmax:
    emphasis = partial(mining.support_vector_emphasis, scale=scale, t=t)
    return replace(cosface(scale=scale, margin=margin), emphasis=emphasis)


def sv_arc_softmax(*, scale: Scale = 32.0, margin_radians: AngularMargin = 0.5, t: AtLeastOne = 1.2) -> MarginSoftmax:
    emphasis = partial(mining.support_vector_emphasis, scale=scale, t=t)
    return replace(arcface(scale=scale, margin_radians=margin_radians), emphasis=emphasis)


def mv_am_softmax(
    *, scale: Scale = 32.0, margin: CosineMargin = 0.35, t: NotNegative = 0.2, adaptive: bool = True
) -> MarginSoftmax:
    emphasis = partial(mining.misclassified_vector_emphasis, scale=scale, t=t, adaptive=adaptive)
    return replace(cosface(scale=scale, margin=margin), emphasis=emphasis)


def mv_arc_softmax(
    *, scale: Scale = 32.0, margin_radians: AngularMargin = 0.5, t: NotNegative = 0.2, adaptive: bool = True
) -> MarginSoftmax:
    emphasis = partial(mining.misclassified_vector_emphasis, scale=scale, t=t, adaptive=adaptive)
    return replace(arcface(scale=scale, margin_radians=margin_radians), emphasis=emphasis)


def f_softmax(*, scale: Scale = 32.0, gamma: NotNegative = 2.0) -> MarginSoftmax:
    return replace(normface(scale=scale), average=partial(mining.focal, gamma=gamma))


def hm_softmax(*, scale: Scale = 32.0, kept: Fraction = 0.9) -> MarginSoftmax:
    return replace(normface(scale=scale), average=partial(mining.hard_mining, kept=kept))


def center(*, weight: NotNegative = 0.003, rate: Annotated[float, Field(ge=0, le=1)] = 0.5) -> HeadBuilder:
    return partial(CenterHead, weight=weight, rate=rate)


def contrastive(*, margin: Annotated[float, Field(ge=0, le=2)] = 1.0) -> HeadBuilder:
    return partial(PairwiseHead, loss=partial(pairwise.contrastive, margin=margin))


def triplet(*, margin: Annotated[float, Field(ge=0, le=4)] = 0.2) -> HeadBuilder:
    return partial(PairwiseHead, loss=partial(pairwise.triplet, margin=margin))


def angular_triplet(*, margin_radians: AngularMargin = 0.35) -> HeadBuilder:
    return partial(PairwiseHead, loss=partial(pairwise.angular_triplet, margin_radians=margin_radians))


LOSSES: Mapping[str, Callable[..., MarginSoftmax | HeadBuilder]] = MappingProxyType(
    {
        loss.__name__.replace("_", "-"): loss
        for loss in (
            softmax,
            modified_softmax,
            normface,
            sphereface,
            am_softmax_without_fn,
            am_softmax,
            cosface,
            arcface,
            combined_margin,
            f_softmax,
            hm_softmax,
            sv_softmax,
            sv_am_softmax,
            sv_arc_softmax,
            mv_am_softmax,
            mv_arc_softmax,
            center,
            contrastive,
            triplet,
            angular_triplet,
        )
    }
)


def make_head(name: str, classes: int, dimension: int, **parameters: Any) -> nn.Module:
    """A head, ``head(embeddings, labels) -> loss``, in training mode.

    Args:
        name: one of ``LOSSES``.
        classes: C, at least 2.
        dimension: d, of the embeddings.
        parameters: those that differ from the defaults.

    Raises:
        ValueError: the message names what was wrong, with the value, and the choices.
    """
    loss = _loss(name, classes, dimension, parameters)
    return MarginHead(classes, dimension, loss) if isinstance(loss, MarginSoftmax) else loss(classes, dimension)


def make_sharded_head(
    name: str, classes: int, dimension: int, rate: float = 1.0, seed: int = 0, **parameters: Any
) -> ShardedMarginHead:
    """A head whose centres are shared out over the processes of a ``torchrun``; see ``models.sharded``.

    Args:
        rate: of the centres, how many each step uses; above 0 up to 1.
        seed: of the initial centres and the samples.

    Raises:
        ValueError: as ``make_head``; or the loss, the rate or so few classes cannot be sharded.
        RuntimeError: there is no process group.
    """
    loss = _loss(name, classes, dimension, parameters)
    if not isinstance(loss, MarginSoftmax):
        raise ValueError(f"the loss {name!r} cannot be sharded; those with a scale can")
    return ShardedMarginHead(classes, dimension, loss, rate, seed)


def _loss(name: str, classes: int, dimension: int, parameters: dict[str, Any]) -> MarginSoftmax | HeadBuilder:
    if name not in LOSSES:
        raise ValueError(f"there is no loss {name!r}; there are {', '.join(LOSSES)}")
    if classes < 2 or dimension < 1:
        raise ValueError(f"classes are 2 or more and the dimension 1 or more, not {classes} and {dimension}")
    taken = list(inspect.signature(LOSSES[name]).parameters)
    for given in parameters:
        if given not in taken:
            raise ValueError(f"the loss {name!r} has no parameter {given!r}; it has {', '.join(taken) or 'none'}")
    try:
        return validate_call(config={"strict": True})(LOSSES[name])(**parameters)
    except ValidationError as error:
        wrong = "; ".join(f"{e['loc'][0]} = {e['input']!r}: {e['msg']}" for e in error.errors())
        raise ValueError(f"the loss {name!r}: {wrong}") from error
