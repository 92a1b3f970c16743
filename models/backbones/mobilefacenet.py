"""MobileFaceNet, and the names that FaceX-Zoo's published weights have in it."""

from collections.abc import Mapping

from torch import Tensor, nn

from models.backbones.layers import conv_bn, conv_bn_prelu, initialise, last_map, scaled

STEM = 64  # channels
BOTTLENECKS = (  # Table 1: expansion t, channels c, how many n, stride of the first s
    (2, 64, 5, 2),  # 56² to 28²
    (4, 128, 1, 2),  # to 14²
    (2, 128, 6, 1),
    (4, 128, 1, 2),  # to 7²
    (2, 128, 2, 1),
)
LAST = 512  # channels


class MobileFaceNet(nn.Module):
    """Small network of inverted bottlenecks with a global depthwise convolution in the place of pooling.

    Chen et al. 2018 (arXiv 1804.07573), Table 1; PReLU everywhere, batch norm after each convolution. The paper's
    embedding has 128 dimensions; with ``dimension=512`` it is to the last layer the network that FaceX-Zoo publishes
    (Wang et al. 2021, arXiv 2101.04407), except that the latter also normalises its output to unit length.

    The paper does not say how its weights begin; here as in He et al. 2015, see ``layers.initialise``.
    """

    def __init__(self, dimension: int = 512, input_size: tuple[int, int] = (112, 112), width: float = 1.0) -> None:
        """
        Args:
            dimension: of the embedding; 128 in the paper.
            input_size: (height, width) in pixels.
            width: multiple of the paper's channels.
        """
        super().__init__()
        channels, last = scaled((STEM, LAST), width)
        self.stem = conv_bn_prelu(3, channels, 3, 2)
        self.depthwise = conv_bn_prelu(channels, channels, 3, 1, groups=channels)
        bottlenecks = []
        for expansion, paper, count, first_stride in BOTTLENECKS:
            [outputs] = scaled([paper], width)
            for stride in [first_stride] + [1] * (count - 1):
                bottlenecks.append(Bottleneck(channels, outputs, expansion, stride))
                channels = outputs
        self.bottlenecks = nn.Sequential(*bottlenecks)
        self.expand = conv_bn_prelu(channels, last, 1, 1)
        self.global_depthwise = conv_bn(last, last, last_map(input_size), 1, groups=last)
        # The table's last, linear 1×1 convolution: on a 1×1 map that is a linear layer.
        self.linear = nn.Linear(last, dimension, bias=False)
        self.features = nn.BatchNorm1d(dimension)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images, float (B, 3, 112, 112), to features (B, d), not of unit length."""
        x = self.stem(images)  # (B, 64, 56, 56)
        x = self.depthwise(x)  # (B, 64, 56, 56)
        x = self.bottlenecks(x)  # (B, 128, 7, 7)
        x = self.expand(x)  # (B, 512, 7, 7)
        x = self.global_depthwise(x).flatten(1)  # (B, 512)
        features: Tensor = self.features(self.linear(x))  # (B, d)
        return features


class Bottleneck(nn.Module):
    """1×1 expansion, 3×3 depthwise, linear 1×1 projection; x is added where the shape stays.

    Sandler et al. 2018, MobileNetV2 (arXiv 1801.04381), Table 1, with PReLU.
    """

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = expansion * inputs
        self.expand = conv_bn_prelu(inputs, hidden, 1, 1)
        self.depthwise = conv_bn_prelu(hidden, hidden, 3, stride, groups=hidden)
        self.project = conv_bn(hidden, outputs, 1, 1)
        self.residual = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, ⌈H / stride⌉, ⌈W / stride⌉)."""
        projected: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + projected if self.residual else projected


def from_facex_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of FaceX-Zoo's MobileFaceNet, as ``models.published`` reads them, under the names of this module.

    Raises:
        ValueError: a tensor that is none of that network's.
    """
    known = _facex_zoo_names()
    renamed = {}
    for name, tensor in tensors.items():
        bare = name.removeprefix("module.")  # published inside a DataParallel
        part = next((part for part in known if bare.startswith(part)), None)
        if part is None:
            raise ValueError(
                f"{name!r} is no tensor of FaceX-Zoo's MobileFaceNet; it begins with none of {list(known)}"
            )
        renamed[known[part] + bare.removeprefix(part)] = tensor
    return renamed


def _facex_zoo_names() -> dict[str, str]:
    """How its names begin, and how ours do."""
    rows = (("conv_23", 0), ("conv_3", 4), ("conv_34", 0), ("conv_4", 6), ("conv_45", 0), ("conv_5", 2))
    blocks = [block for row, n in rows for block in ([f"{row}.model.{i}" for i in range(n)] or [row])]
    names = {"conv1.": "stem.", "conv2_dw.": "depthwise."}
    for i, block in enumerate(blocks):
        for theirs, ours in (("conv", "expand"), ("conv_dw", "depthwise"), ("project", "project")):
            names[f"{block}.{theirs}."] = f"bottlenecks.{i}.{ours}."
    return names | {
        "conv_6_sep.": "expand.",
        "conv_6_dw.": "global_depthwise.",
        "linear.": "linear.",
        "bn.": "features.",
    }
