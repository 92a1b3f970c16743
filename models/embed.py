"""A backbone of torch as the recognizer calls an embedder."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class TorchEmbedder:
    """From crops to embeddings: the features of a crop and its mirror image are added, the sum scaled to length 1."""

    def __init__(
        self,
        backbone: nn.Module,
        channel_order: Literal["RGB", "BGR"] = "RGB",
        mean: float = 127.5,
        scale: float = 127.5,
        batch: int = 128,
    ) -> None:
        """
        Args:
            backbone: in evaluation mode when it is called.
            channel_order, mean, scale: the backbone takes (pixel − mean) / scale in this order of channels.
            batch: crops at once.
        """
        self.backbone, self.channel_order, self.mean, self.scale = backbone, channel_order, mean, scale
        self.batch = batch

    @torch.no_grad()
    def __call__(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Embed uint8 RGB ``crops`` (n, s, s, 3).

        Returns:
            embeddings float32 (n, d) of unit length, and the lengths before normalisation (n,).
        """
        device = next(self.backbone.parameters()).device
        parts = []
        for start in range(0, len(crops), self.batch):
            pixels = torch.from_numpy(np.ascontiguousarray(crops[start : start + self.batch])).to(device)
            images = network_input(pixels, self.channel_order, self.mean, self.scale)
            parts.append((self.backbone(images) + self.backbone(images.flip(3))).float())
        features = torch.cat(parts)
        norms = features.norm(dim=1)
        return (features / norms[:, None]).cpu().numpy(), norms.cpu().numpy()


def network_input(pixels: Tensor, channel_order: Literal["RGB", "BGR"], mean: float, scale: float) -> Tensor:
    """uint8 (B, s, s, 3) RGB to (pixel − mean) / scale, float32 (B, 3, s, s) in ``channel_order``, contiguous."""
    planes = pixels.permute(0, 3, 1, 2)
    ordered = planes if channel_order == "RGB" else planes.flip(1)
    return ((ordered.float() - mean) / scale).contiguous()
