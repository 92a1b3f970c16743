"""``python -m models.backbones``: how large each backbone is, for images of 112×112 and 512 dimensions."""

import torch

from models.backbones import BACKBONES, make_backbone
from models.backbones.count import count

print(f"{'backbone':<14} {'parameters':>12} {'MACs':>16}")
for name in BACKBONES:
    with torch.device("meta"):
        counts = count(make_backbone(name))
    print(f"{name:<14} {counts.parameters:>12,} {counts.macs:>16,}")
