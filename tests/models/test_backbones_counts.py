"""Parameters and multiply–accumulates, against arithmetic over the layer tables and against published figures."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from models.backbones import BACKBONES, make_backbone
from models.backbones.count import Counts, count
from models.backbones.mobilefacenet import MobileFaceNet

SIDES = (56, 28, 14, 7)  # of the maps, by stage
CHANNELS = (64, 128, 256, 512)


def counts_of(name: str, dimension: int = 512) -> Counts:
    with torch.device("meta"):
        return count(make_backbone(name, dimension))


def iresnet(units: tuple[int, int, int, int], d: int) -> Counts:
    """Unit: BN, 3×3, BN, PReLU, 3×3, BN; the first of a stage has a 1×1 with BN beside it. BN has 2 parameters a
    channel, PReLU 1.
    """
    parameters, macs = 3 * 64 * 9 + 3 * 64, 3 * 64 * 9 * 112**2
    inputs = 64
    for c, side, n in zip(CHANNELS, SIDES, units, strict=True):
        parameters += 2 * inputs + 9 * inputs * c + 3 * c + 9 * c * c + 2 * c + inputs * c + 2 * c
        macs += 9 * inputs * c * (2 * side) ** 2 + 9 * c * c * side**2 + inputs * c * side**2
        parameters += (n - 1) * (2 * c + 9 * c * c + 3 * c + 9 * c * c + 2 * c)
        macs += (n - 1) * 2 * 9 * c * c * side**2
        inputs = c
    flat = 512 * 7 * 7
    return Counts(parameters + 2 * 512 + flat * d + d + 2 * d, macs + flat * d)


def sphereface(units: tuple[int, int, int, int], d: int) -> Counts:
    """A 3×3 of stride 2 with bias, and PReLU; then units of twice 3×3 without bias, and PReLU."""
    parameters = macs = 0
    inputs = 3
    for c, side, n in zip(CHANNELS, SIDES, units, strict=True):
        parameters += 9 * inputs * c + c + c + n * 2 * (9 * c * c + c)
        macs += (9 * inputs * c + n * 2 * 9 * c * c) * side**2
        inputs = c
    flat = 512 * 7 * 7
    return Counts(parameters + flat * d + d, macs + flat * d)


def mobilefacenet(d: int) -> Counts:
    """Table 1 of the paper row by row: (channels in, channels out, kernel², groups, side of the output, PReLU)."""
    layers = [(3, 64, 9, 1, 56, True), (64, 64, 9, 64, 56, True)]
    for before, after, hidden, side_in, side in (
        *[(64, 64, 128, 56, 28), *[(64, 64, 128, 28, 28)] * 4],
        (64, 128, 256, 28, 14),
        *[(128, 128, 256, 14, 14)] * 6,
        (128, 128, 512, 14, 7),
        *[(128, 128, 256, 7, 7)] * 2,
    ):
        layers += [
            (before, hidden, 1, 1, side_in, True),
            (hidden, hidden, 9, hidden, side, True),
            (hidden, after, 1, 1, side, False),
        ]
    layers += [(128, 512, 1, 1, 7, True), (512, 512, 49, 512, 1, False), (512, d, 1, 1, 1, False)]
    weights = [before // groups * after * kernel for before, after, kernel, groups, _, _ in layers]
    norms = sum((3 if prelu else 2) * after for _, after, _, _, _, prelu in layers)
    macs = sum(n * side**2 for n, (_, _, _, _, side, _) in zip(weights, layers, strict=True))
    return Counts(sum(weights) + norms, macs)


EXPECTED = {
    "iresnet18": lambda d: iresnet((2, 2, 2, 2), d),
    "iresnet34": lambda d: iresnet((3, 4, 6, 3), d),
    "iresnet50": lambda d: iresnet((3, 4, 14, 3), d),
    "iresnet100": lambda d: iresnet((3, 13, 30, 3), d),
    "mobilefacenet": mobilefacenet,
    "sphereface4": lambda d: sphereface((0, 0, 0, 0), d),
    "sphereface20": lambda d: sphereface((1, 2, 4, 1), d),
    "sphereface36": lambda d: sphereface((2, 4, 8, 2), d),
    "sphereface64": lambda d: sphereface((3, 8, 16, 3), d),
}


@pytest.mark.parametrize("dimension", [128, 512])
@pytest.mark.parametrize("name", BACKBONES)
def test_counts_are_those_of_the_layer_table(name: str, dimension: int) -> None:
    assert counts_of(name, dimension) == EXPECTED[name](dimension)


# MACs in 1e9, from the table "ViT For Face Recognition" in the README of InsightFace's arcface_torch.
@pytest.mark.parametrize(("name", "giga"), [("iresnet18", 2.6), ("iresnet50", 6.3), ("iresnet100", 12.1)])
def test_macs_of_iresnet_as_insightface_publishes_them(name: str, giga: float) -> None:
    assert round(counts_of(name).macs / 1e9, 1) == giga


# 43.59 M and 65.16 M, as often cited; Open Model Zoo gives 65.132 M and 24.2115 GFLOPs (two per MAC) for the ONNX
# file of LResNet100E-IR, where the batch norms behind convolutions are folded into them.
def test_parameters_of_iresnet() -> None:
    assert round(counts_of("iresnet50").parameters / 1e6, 2) == 43.59
    assert round(counts_of("iresnet100").parameters / 1e6, 2) == 65.16
    assert counts_of("iresnet100").parameters == pytest.approx(65.132e6, rel=5e-4)
    assert 2 * counts_of("iresnet100").macs == pytest.approx(24.2115e9, rel=2e-3)


def test_mobilefacenet_as_its_paper_and_facex_zoo_publish_it() -> None:
    """The paper has 0.99 M parameters and 221 M multiply–adds (both without PReLU). FaceX-Zoo's table, in its
    training_mode/README.md, has 1.19 M and 227.57 M for 512 dimensions: its counter, THOP, leaves out PReLU too and
    takes two operations for each output of a batch norm.
    """
    slopes = norms = 0
    with torch.device("meta"):
        network = MobileFaceNet(dimension=512).eval()

        def add(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            nonlocal norms
            norms += output.numel()

        for module in network.modules():
            slopes += module.weight.numel() if isinstance(module, nn.PReLU) else 0
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                module.register_forward_hook(add)
        network(torch.zeros(1, 3, 112, 112))
    published, paper = counts_of("mobilefacenet", 512), counts_of("mobilefacenet", 128)
    assert round((published.parameters - slopes) / 1e6, 2) == 1.19
    assert round((published.macs + 2 * norms) / 1e6, 2) == 227.57
    assert round(paper.macs / 1e6) == 221
    assert paper.parameters - slopes == pytest.approx(0.99e6, abs=0.01e6)


def test_counting_leaves_the_network_as_it_was() -> None:
    network = make_backbone("sphereface4", 8, input_size=(32, 32), width=0.125)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert count(network, (32, 32)).macs == 3 * 8 * 9 * 256 + 9 * (8 * 16 * 64 + 16 * 32 * 16 + 32 * 64 * 4) + 256 * 8
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_the_module_prints_one_line_for_each() -> None:
    printed = subprocess.run(
        [sys.executable, "-W", "error", "-m", "models.backbones"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert [line.split()[0] for line in printed[1:]] == list(BACKBONES)
    expected = mobilefacenet(512)
    assert printed[5].split() == ["mobilefacenet", f"{expected.parameters:,}", f"{expected.macs:,}"]
