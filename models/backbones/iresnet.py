"""IResNet: the residual networks that ArcFace is trained with."""

from torch import Tensor, nn

from models.backbones.layers import conv_bn, conv_bn_prelu, initialise, last_map, scaled

CHANNELS = (64, 128, 256, 512)  # of the four stages


class IResNet(nn.Module):
    """Residual network for aligned faces, output BN–Dropout–FC–BN.

    Deng et al. 2019, ArcFace (arXiv 1801.07698; its first version compares the choices): the first convolution is 3×3
    without stride and without pooling, so that a face of 112 pixels leaves a map of 7×7, and the unit is
    BN–conv–BN–PReLU–conv–BN. The gain of the last batch norm stays 1, as in the authors' code.

    The paper does not say how its weights begin; here as in He et al. 2015, see ``layers.initialise``.
    """

    def __init__(
        self,
        units: tuple[int, int, int, int],
        dimension: int = 512,
        input_size: tuple[int, int] = (112, 112),
        width: float = 1.0,
        dropout: float = 0.4,
    ) -> None:
        """
        Args:
            units: residual units of each stage, at least one: (3, 4, 14, 3) is IResNet-50.
            dimension: of the embedding.
            input_size: (height, width) in pixels.
            width: multiple of the paper's channels.
            dropout: share of the last map set to zero in training; 0.4 in the authors' code.
        """
        super().__init__()
        first, second, third, fourth = scaled(CHANNELS, width)
        rows, columns = last_map(input_size)
        self.stem = conv_bn_prelu(3, first, 3, 1)
        self.stage1 = _stage(first, first, units[0])
        self.stage2 = _stage(first, second, units[1])
        self.stage3 = _stage(second, third, units[2])
        self.stage4 = _stage(third, fourth, units[3])
        self.bn = nn.BatchNorm2d(fourth)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(fourth * rows * columns, dimension)
        self.features = nn.BatchNorm1d(dimension)
        initialise(self)
        self.features.weight.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images, float (B, 3, 112, 112), to features (B, d), not of unit length."""
        x = self.stem(images)  # (B, 64, 112, 112)
        x = self.stage1(x)  # (B, 64, 56, 56)
        x = self.stage2(x)  # (B, 128, 28, 28)
        x = self.stage3(x)  # (B, 256, 14, 14)
        x = self.stage4(x)  # (B, 512, 7, 7)
        x = self.dropout(self.bn(x)).flatten(1)  # (B, 25088)
        features: Tensor = self.features(self.linear(x))  # (B, d)
        return features


class Unit(nn.Module):
    """x + BN–conv–BN–PReLU–conv–BN of x; where the shape changes, x passes a 1×1 convolution with batch norm."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.conv1 = conv_bn_prelu(inputs, outputs, 3, 1)
        self.conv2 = conv_bn(outputs, outputs, 3, stride)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, ⌈H / stride⌉, ⌈W / stride⌉)."""
        total: Tensor = self.shortcut(x) + self.conv2(self.conv1(self.bn(x)))
        return total


def _stage(inputs: int, outputs: int, units: int) -> nn.Sequential:
    """The first unit halves the map."""
    return nn.Sequential(Unit(inputs, outputs, 2), *(Unit(outputs, outputs, 1) for _ in range(units - 1)))
