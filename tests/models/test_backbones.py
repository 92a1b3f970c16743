"""Backbones by name: the shapes of every stage, the formulas of their units, initial weights, refusals."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones import BACKBONES, make_backbone
from models.backbones.iresnet import Unit as IResNetUnit
from models.backbones.mobilefacenet import Bottleneck
from models.backbones.sphereface import Unit as SphereFaceUnit

RESIDUAL = [name for name in BACKBONES if name != "mobilefacenet"]


def output_shapes(name: str, dimension: int, input_size: tuple[int, int] = (112, 112)) -> dict[str, tuple[int, ...]]:
    """What each module of a backbone gives for one image, by the module's name."""
    seen: dict[str, tuple[int, ...]] = {}
    with torch.device("meta"):
        network = make_backbone(name, dimension, input_size=input_size).eval()
        for path, module in network.named_modules():
            module.register_forward_hook(lambda _m, _i, out, path=path: seen.update({path: tuple(out.shape[1:])}))
        network(torch.zeros(1, 3, *input_size))
    return seen


def randomise(network: nn.Module, seed: int) -> dict[str, Tensor]:
    """Other values for every parameter and statistic, in float64; returned by name."""
    generator = torch.Generator().manual_seed(seed)
    network.double().eval()
    state = network.state_dict()
    for tensor in state.values():
        if tensor.is_floating_point():
            kernel = tensor.ndim == 4
            tensor.uniform_(-0.5 if kernel else 0.5, 0.5 if kernel else 1.5, generator=generator)
    return state


def batch_norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    """γ (x − μ) / √(σ² + ε) + β, ε = 1e-5."""
    gain, shift, mean, variance = (
        state[f"{name}.{part}"][:, None, None] for part in ("weight", "bias", "running_mean", "running_var")
    )
    return gain * (x - mean) / torch.sqrt(variance + 1e-5) + shift


def prelu(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    """x where positive, else a·x."""
    return torch.where(x > 0, x, state[f"{name}.weight"][:, None, None] * x)


@pytest.mark.parametrize("name", RESIDUAL)
def test_the_four_stages_of_residual_networks(name: str) -> None:
    seen = output_shapes(name, 256)
    stages = [seen[f"stage{i}"] for i in (1, 2, 3, 4)]
    assert stages == [(64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)]
    assert seen[""] == (256,)


def test_the_first_convolution_of_iresnet_keeps_the_size() -> None:
    assert output_shapes("iresnet18", 512)["stem"] == (64, 112, 112)


def test_mobilefacenet_has_the_maps_of_its_table() -> None:
    seen = output_shapes("mobilefacenet", 128)
    bottlenecks = [seen[f"bottlenecks.{i}"] for i in range(15)]
    assert seen["stem"] == seen["depthwise"] == (64, 56, 56)
    assert bottlenecks == [(64, 28, 28)] * 5 + [(128, 14, 14)] * 7 + [(128, 7, 7)] * 3
    expanded = [seen[f"bottlenecks.{i}.expand"][0] for i in range(15)]
    assert expanded == [128] * 5 + [256] * 7 + [512] + [256] * 2
    assert [seen["expand"], seen["global_depthwise"], seen[""]] == [(512, 7, 7), (512, 1, 1), (128,)]


def test_the_crops_of_the_sphereface_paper() -> None:
    with torch.device("meta"):
        assert make_backbone("sphereface20", input_size=(112, 96)).linear.in_features == 512 * 7 * 6


@pytest.mark.parametrize(("outputs", "stride"), [(6, 2), (4, 1)])
def test_the_unit_of_iresnet(outputs: int, stride: int) -> None:
    unit = IResNetUnit(4, outputs, stride)
    s = randomise(unit, 1)
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    y = F.conv2d(batch_norm(x, s, "bn"), s["conv1.conv.weight"], padding=1)
    y = F.conv2d(prelu(batch_norm(y, s, "conv1.bn"), s, "conv1.prelu"), s["conv2.conv.weight"], None, stride, 1)
    y = batch_norm(y, s, "conv2.bn")
    shortcut = x if stride == 1 else batch_norm(F.conv2d(x, s["shortcut.conv.weight"], None, stride), s, "shortcut.bn")
    torch.testing.assert_close(unit(x), shortcut + y)


@pytest.mark.parametrize(("outputs", "stride"), [(6, 2), (4, 1), (6, 1)])
def test_the_bottleneck_of_mobilefacenet(outputs: int, stride: int) -> None:
    bottleneck = Bottleneck(4, outputs, 2, stride)
    s = randomise(bottleneck, 3)
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    y = prelu(batch_norm(F.conv2d(x, s["expand.conv.weight"]), s, "expand.bn"), s, "expand.prelu")
    y = F.conv2d(y, s["depthwise.conv.weight"], None, stride, 1, groups=8)
    y = prelu(batch_norm(y, s, "depthwise.bn"), s, "depthwise.prelu")
    y = batch_norm(F.conv2d(y, s["project.conv.weight"]), s, "project.bn")
    torch.testing.assert_close(bottleneck(x), x + y if (outputs, stride) == (4, 1) else y)


def test_the_unit_of_sphereface() -> None:
    unit = SphereFaceUnit(4)
    s = randomise(unit, 5)
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    y = prelu(F.conv2d(x, s["conv1.weight"], padding=1), s, "prelu1")
    y = prelu(F.conv2d(y, s["conv2.weight"], padding=1), s, "prelu2")
    torch.testing.assert_close(unit(x), x + y)


@pytest.mark.parametrize("name", ["iresnet18", "mobilefacenet", "sphereface20"])
def test_a_small_one_trains_in_all_its_parts(name: str) -> None:
    torch.manual_seed(7)
    network = make_backbone(name, dimension=16, input_size=(48, 40), width=0.125)
    features = network(torch.randn(4, 3, 48, 40))
    assert features.shape == (4, 16)
    # A sum of squares: its gradient does not vanish behind a batch norm, as that of a sum would.
    (features * torch.randn(4, 16)).square().sum().backward()
    fixed = {path for path, parameter in network.named_parameters() if not parameter.requires_grad}
    assert fixed == ({"features.weight"} if name == "iresnet18" else set())
    for path, parameter in network.named_parameters():
        if path not in fixed:
            assert parameter.grad is not None, path
            assert parameter.grad.abs().max() > 0, path


def test_dropout_is_at_work_in_training_only() -> None:
    torch.manual_seed(8)
    network = make_backbone("iresnet18", 16, input_size=(32, 32), width=0.125, dropout=0.5)
    zeroed = torch.ones(4, 64, 2, 2)
    assert network.dropout(zeroed).eq(0).any()
    assert network.eval().dropout(zeroed).eq(1).all()


@pytest.mark.parametrize("name", ["iresnet18", "mobilefacenet"])
def test_weights_begin_as_he_et_al_have_them(name: str) -> None:
    torch.manual_seed(9)
    expected = math.sqrt(2 / (1 + 0.25**2))  # times 1 / √inputs
    scaled = []
    for module in make_backbone(name, 256).modules():
        if isinstance(module, nn.Conv2d):
            scaled.append(module.weight.flatten() * math.sqrt(module.weight[0].numel()))
            assert deviation(scaled[-1]) == pytest.approx(expected, rel=0.15)
        elif isinstance(module, nn.Linear):
            assert deviation(module.weight) == pytest.approx(1 / math.sqrt(module.in_features), rel=0.02)
        elif isinstance(module, nn.PReLU):
            assert module.weight.eq(0.25).all()
    assert deviation(torch.cat(scaled)) == pytest.approx(expected, rel=0.005)


def test_weights_begin_as_in_the_definition_of_sphereface() -> None:
    torch.manual_seed(10)
    network = make_backbone("sphereface20")
    for path, parameter in network.named_parameters():
        if ".conv" in path:
            assert deviation(parameter) == pytest.approx(0.01, rel=0.02)
        elif parameter.ndim > 1:
            inputs = parameter[0].numel()
            assert deviation(parameter) == pytest.approx(1 / math.sqrt(inputs), rel=0.05)
            assert parameter.abs().max() <= math.sqrt(3 / inputs)


def deviation(weights: Tensor) -> float:
    return float(weights.detach().std())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet50", {}, "backbone is 'resnet50'; known: iresnet18, .*mobilefacenet, .*sphereface64"),
        ("iresnet18", {"dimension": 0}, "dimension is 0; give 1 or more"),
        ("mobilefacenet", {"dropout": 0.4}, "mobilefacenet has no option dropout; known: input_size, width"),
        ("iresnet18", {"units": (1, 1, 1, 1)}, "no option units; known: input_size, width, dropout"),
        ("sphereface4", {"width": 0.0}, "width is 0.0; give"),
        ("sphereface4", {"width": float("nan")}, "width is nan; give"),
        ("iresnet18", {"input_size": (112, 0)}, r"input_size is \(112, 0\); give \(height, width\)"),
    ],
)
def test_refusals_name_the_value_and_the_choices(name: str, options: dict[str, object], message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        make_backbone(name, **options)
