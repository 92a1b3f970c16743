"""Counting parameters, and multiply–accumulates for one image."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Counts:
    """How large a network is.

    Attributes:
        parameters: weights, biases, slopes and gains, trained or fixed; not the running statistics of batch norms.
        macs: multiplications with an addition, of convolutions and linear layers, for one image; half of what is
            called FLOPs where both are counted. Batch norms, activations and sums are left out, as in most papers.
    """

    parameters: int
    macs: int


def count(network: nn.Module, input_size: tuple[int, int] = (112, 112)) -> Counts:
    """Count by running ``network`` once on an image of ``input_size`` (height, width), wherever its weights are.

    On torch's device ``meta`` that costs neither memory nor time.
    """
    macs = 0

    def add(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        if isinstance(module, nn.Conv2d | nn.Linear):
            macs += output.numel() * module.weight[0].numel()

    hooks = [module.register_forward_hook(add) for module in network.modules()]
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, *input_size, device=next(network.parameters()).device))
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return Counts(sum(parameter.numel() for parameter in network.parameters()), macs)
