"""SphereFace's own plain residual networks."""

from torch import Tensor, nn

from models.backbones.layers import last_map, scaled

CHANNELS = (64, 128, 256, 512)  # of the four stages


class SphereFace(nn.Module):
    """Residual network without batch norm; every convolution 3×3 and followed by PReLU, then one linear layer.

    Liu et al. 2017 (arXiv 1704.08063), Table 2. The paper's crops are 112×96 and leave a map of 7×6; the usual ones
    of 112×112 leave 7×7.

    Weights begin as in the authors' Caffe definition: normal with σ = 0.01 and no bias inside the residual units;
    elsewhere uniform with variance 1 / n, n inputs per output (Caffe's "xavier"), and bias 0.
    """

    def __init__(
        self,
        units: tuple[int, int, int, int],
        dimension: int = 512,
        input_size: tuple[int, int] = (112, 112),
        width: float = 1.0,
    ) -> None:
        """
        Args:
            units: residual units of each stage: (1, 2, 4, 1) is SphereFace-20.
            dimension: of the embedding.
            input_size: (height, width) in pixels.
            width: multiple of the paper's channels.
        """
        super().__init__()
        first, second, third, fourth = scaled(CHANNELS, width)
        rows, columns = last_map(input_size)
        self.stage1 = _stage(3, first, units[0])
        self.stage2 = _stage(first, second, units[1])
        self.stage3 = _stage(second, third, units[2])
        self.stage4 = _stage(third, fourth, units[3])
        self.linear = nn.Linear(fourth * rows * columns, dimension)
        _caffe_xavier(self.linear)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images, float (B, 3, 112, 112), to features (B, d), not of unit length."""
        x = self.stage1(images)  # (B, 64, 56, 56)
        x = self.stage2(x)  # (B, 128, 28, 28)
        x = self.stage3(x)  # (B, 256, 14, 14)
        x = self.stage4(x)  # (B, 512, 7, 7)
        features: Tensor = self.linear(x.flatten(1))  # (B, d)
        return features


class Unit(nn.Module):
    """x + conv–PReLU–conv–PReLU of x, (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.prelu1 = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.prelu2 = nn.PReLU(channels)
        for conv in (self.conv1, self.conv2):
            nn.init.normal_(conv.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        total: Tensor = x + self.prelu2(self.conv2(self.prelu1(self.conv1(x))))
        return total


def _stage(inputs: int, outputs: int, units: int) -> nn.Sequential:
    """The first convolution halves the map."""
    halve = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
    _caffe_xavier(halve)
    return nn.Sequential(halve, nn.PReLU(outputs), *(Unit(outputs) for _ in range(units)))


def _caffe_xavier(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.kaiming_uniform_(layer.weight, mode="fan_in", nonlinearity="linear")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
