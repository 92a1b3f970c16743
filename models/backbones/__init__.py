"""Backbones: networks from an aligned face to its features. ``BACKBONES`` has them by name.

All take normalised images, float (B, 3, height, width), usually (B, 3, 112, 112) in −1 to 1, and give features (B, d).
Those are not of unit length: normalising is left to the head in training and to the exported graph in serving.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import nn

from models.backbones.iresnet import IResNet
from models.backbones.mobilefacenet import MobileFaceNet
from models.backbones.sphereface import SphereFace

# Residual units in each of the four stages. IResNet: ArcFace's, of which its paper uses 50 and 100; SphereFace:
# its Table 2.
BACKBONES: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "iresnet18": partial(IResNet, (2, 2, 2, 2)),
        "iresnet34": partial(IResNet, (3, 4, 6, 3)),
        "iresnet50": partial(IResNet, (3, 4, 14, 3)),
        "iresnet100": partial(IResNet, (3, 13, 30, 3)),
        "mobilefacenet": MobileFaceNet,
        "sphereface4": partial(SphereFace, (0, 0, 0, 0)),
        "sphereface20": partial(SphereFace, (1, 2, 4, 1)),
        "sphereface36": partial(SphereFace, (2, 4, 8, 2)),
        "sphereface64": partial(SphereFace, (3, 8, 16, 3)),
    }
)


def make_backbone(name: str, dimension: int = 512, **options: Any) -> nn.Module:
    """A backbone with fresh weights.

    Args:
        name: one of ``BACKBONES``.
        dimension: d, of the embedding.
        options: ``input_size``, ``width`` and, for IResNet, ``dropout``; see the classes.

    Raises:
        ValueError: an unknown name or option, or a value out of range; the message says which are known.
    """
    if name not in BACKBONES:
        raise ValueError(f"backbone is {name!r}; known: {', '.join(BACKBONES)}")
    if dimension < 1:
        raise ValueError(f"dimension is {dimension}; give 1 or more, 512 being usual")
    constructor = BACKBONES[name]
    known = [option for option in inspect.signature(constructor).parameters if option not in ("units", "dimension")]
    if unknown := [option for option in options if option not in known]:
        raise ValueError(f"{name} has no option {', '.join(unknown)}; known: {', '.join(known)}")
    return constructor(dimension=dimension, **options)
