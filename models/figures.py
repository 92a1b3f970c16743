"""The target logit of every margin against the angle, in one picture, as in the ArcFace paper (arXiv 1801.07698).

python -m models.figures --out target_logits.png
"""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import margins
from service.evaluation.canvas import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, canvas, png

# Margins that the papers use.
CURVES: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "NormFace, modified softmax: cos θ": margins.plain,
        "SphereFace, m = 4, λ = 0": partial(margins.sphereface, multiple=4),
        "SphereFace, m = 4, λ = 5": partial(margins.sphereface, multiple=4, annealing=5.0),
        "CosFace, AM-Softmax, m = 0.35": partial(margins.cosface, margin=0.35),
        "ArcFace, m = 0.5": partial(margins.arcface, margin_radians=0.5),
        "combined, (1, 0.3, 0.2)": partial(margins.combined, multiple=1.0, margin_radians=0.3, margin=0.2),
        "combined, (0.9, 0.4, 0.15)": partial(margins.combined, multiple=0.9, margin_radians=0.4, margin=0.15),
    }
)
LOWEST = -2.5


def target_logits(degrees: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """f(θ) of each margin at these angles, 0 to 180, (n,) each, in cosine units: the target logit without the scale."""
    cosines = torch.from_numpy(np.cos(np.radians(degrees)))
    return {name: margin(cosines).numpy() for name, margin in CURVES.items()}


def target_logit_figure() -> bytes:
    """The picture, PNG; SphereFace without annealing goes on below it, to −7."""
    figure, axes = canvas("Target logits, without the scale s")
    degrees = np.linspace(0, 180, 721)
    styles = zip(
        (GREY, SKY, BLUE, GREEN, VERMILION, PURPLE, ORANGE), ("-", ":", "-", "--", "-", "-.", "--"), strict=True
    )
    for (name, logits), (colour, line) in zip(target_logits(degrees).items(), styles, strict=True):
        axes.plot(degrees, logits, color=colour, linestyle=line, linewidth=1.6, label=name)
    axes.set_xlim(0, 180)
    axes.set_xticks(range(0, 181, 30))
    axes.set_ylim(LOWEST, 1.1)
    axes.set_xlabel("Angle θ between embedding and the centre of its class (degrees)")
    axes.set_ylabel("Target logit f(θ)")
    axes.legend(loc="upper right", frameon=False, fontsize=8)
    return png(figure)


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    out: Path = parser.parse_args().out
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(target_logit_figure())


if __name__ == "__main__":
    main()
