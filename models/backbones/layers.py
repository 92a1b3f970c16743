"""What several backbones are made of: convolution with batch norm, channel widths, the last map, initial weights."""

import math
from collections.abc import Sequence

from torch import nn


def conv_bn(inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int, groups: int = 1) -> nn.Sequential:
    """Convolution without bias, then batch norm. An odd square kernel is padded to keep the size, up to the stride;
    a kernel given as (height, width) is not padded.
    """
    padding = kernel // 2 if isinstance(kernel, int) else 0
    layers = nn.Sequential()
    layers.add_module("conv", nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False))
    layers.add_module("bn", nn.BatchNorm2d(outputs))
    return layers


def conv_bn_prelu(inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> nn.Sequential:
    """``conv_bn``, then PReLU with a slope for each channel."""
    layers = conv_bn(inputs, outputs, kernel, stride, groups)
    layers.add_module("prelu", nn.PReLU(outputs))
    return layers


def scaled(channels: Sequence[int], width: float) -> list[int]:
    """Each number of channels times ``width``, rounded to a multiple of 8 and at least 8; 1 changes nothing.

    The width multiplier of MobileNets (Howard et al. 2017, arXiv 1704.04861, section 3.3).
    """
    if not (width > 0 and math.isfinite(width)):
        raise ValueError(f"width is {width}; give a multiple of the paper's channels above 0, such as 1.0 or 0.25")
    return [max(8, 8 * round(width * c / 8)) for c in channels]


def last_map(input_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the map that four layers of stride 2 leave of an input, (7, 7) of (112, 112)."""
    height, width = input_size
    if height < 1 or width < 1:
        raise ValueError(f"input_size is {input_size}; give (height, width) in pixels, such as (112, 112)")
    return -(-height // 16), -(-width // 16)


def initialise(network: nn.Module) -> None:
    """Initial weights for networks whose convolutions are followed by batch norm.

    Convolutions: normal with variance 2 / ((1 + a²) n), n inputs per output and a = 0.25 the initial slope of PReLU
    (He et al. 2015, arXiv 1502.01852, Eq. 15). Linear layers: variance 1 / n. Batch norms begin as the identity.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, a=0.25, mode="fan_in", nonlinearity="leaky_relu")
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
