"""The figure of target logits: its data are the formulas, and the command draws them."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models import figures


def psi(angle: float) -> float:
    k = math.floor(angle / math.pi)
    return (-1) ** k * math.cos(angle) - 2 * k


@pytest.mark.parametrize("degrees", [1, 30, 45.5, 60, 90, 120, 155, 179])
def test_the_plotted_data_are_the_formulas(degrees: float) -> None:
    angle = math.radians(degrees)
    expected = [
        math.cos(angle),
        psi(4 * angle),
        (5 * math.cos(angle) + psi(4 * angle)) / 6,
        math.cos(angle) - 0.35,
        math.cos(angle + 0.5) if angle + 0.5 <= math.pi else -math.cos(angle + 0.5) - 2,
        psi(angle + 0.3) - 0.2,
        psi(0.9 * angle + 0.4) - 0.15,
    ]
    found = figures.target_logits(np.array([degrees, 10.0]))
    assert [values.shape for values in found.values()] == [(2,)] * 7
    assert [values[0] for values in found.values()] == pytest.approx(expected, abs=1e-12)


def test_no_curve_rises() -> None:
    for values in figures.target_logits(np.linspace(0, 180, 1000)).values():
        assert (np.diff(values) <= 1e-12).all()


def test_the_command_draws_every_curve(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "logits.png"
    subprocess.run([sys.executable, "-m", "models.figures", "--out", str(out)], check=True)
    with Image.open(out) as image:
        assert (image.format, image.size) == ("PNG", (900, 650))
        pixels = np.asarray(image.convert("RGB"), np.int16)
    for colour in ("GREY", "SKY", "BLUE", "GREEN", "VERMILION", "PURPLE", "ORANGE"):
        rgb = [int(getattr(figures, colour)[k : k + 2], 16) for k in (1, 3, 5)]
        assert (np.abs(pixels - rgb).max(axis=2) < 8).sum() > 100, colour
