"""The two figures of an evaluation, as PNG bytes of 900 × 650 pixels.

matplotlib is imported by the functions, since only evaluations need it and it takes a second to load. pyplot
is left out: its global state is not safe among threads.
"""

import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from service.evaluation.metrics import Scores, equal_error_rate, roc

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE_INCHES = (6.0, 4.3334)
DPI = 150
LOWEST_FAR = 1e-4
BINS = 70

# Okabe and Ito's palette, told apart with every common kind of colour blindness.
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#555555"


def roc_figure(genuine: Scores, impostor: Scores, title: str) -> bytes:
    """The ROC of ISO/IEC 19795-1: true accept rate against false accept rate, the latter on a log axis.

    Args:
        genuine: (g,) scores, ``-inf`` where a pair could not be compared.
        impostor: (i,) the same.
        title: one line that says what was measured.
    """
    figure, axes = _canvas(title)
    far, tar = _steps(genuine, impostor)
    eer = equal_error_rate(genuine, impostor)
    axes.step(far, tar, where="post", color=BLUE, linewidth=1.8, label="ROC")
    visible = eer >= far[0]
    label = f"EER {100 * eer:.2f} %" + ("" if visible else ", left of this axis")
    axes.plot([eer] if visible else [], [1 - eer] if visible else [], "o", color=VERMILION, label=label)
    diagonal = np.geomspace(far[0], 1, 200)
    axes.plot(diagonal, 1 - diagonal, "--", color=GREY, linewidth=0.9, label="FAR = 1 − TAR")
    axes.set_xscale("log")
    axes.set_xlim(far[0], 1)
    # A good system lives in the topmost few percent; the axis begins where the curve does.
    low = min(float(tar[0]), 1 - eer)
    axes.set_ylim(max(0.0, low - 0.15 * (1 - low) - 0.002), 1 + 0.03 * (1 - low) + 0.0005)
    axes.set_xlabel("False accept rate (FAR)")
    axes.set_ylabel("True accept rate (TAR)")
    axes.legend(loc="lower right", frameon=False)
    return _png(figure)


def score_histogram(genuine: Scores, impostor: Scores, threshold: float, title: str) -> bytes:
    """Densities of the genuine and the impostor scores, with the threshold that decides between them.

    Args:
        genuine: (g,) scores; those that are not finite are left out.
        impostor: (i,) the same.
        threshold: a score at or above it is a match.
        title: one line that says what was measured.
    """
    figure, axes = _canvas(title)
    genuine, impostor = genuine[np.isfinite(genuine)], impostor[np.isfinite(impostor)]
    edges = np.histogram_bin_edges(np.concatenate([genuine, impostor]), BINS)
    for scores, label, colour, line in (
        (impostor, "impostor", VERMILION, "--"),
        (genuine, "genuine", BLUE, "-"),
    ):
        if scores.size:
            density = np.histogram(scores, edges, density=True)[0]
            axes.stairs(density, edges, fill=True, color=colour, alpha=0.25)
            legend = f"{label} (n = {scores.size:,})"
            axes.stairs(density, edges, color=colour, linewidth=1.6, linestyle=line, label=legend)
    axes.axvline(threshold, color="black", linewidth=1.2, linestyle=":", label=f"threshold {threshold:.3f}")
    axes.set_xlabel("Similarity score (cosine)")
    axes.set_ylabel("Probability density")
    figure.legend(loc="outside lower center", frameon=False, ncols=3)
    return _png(figure)


def _steps(genuine: Scores, impostor: Scores) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(k,) rising FAR from the smallest drawn to 1, and the highest TAR that each permits."""
    curve = roc(genuine, impostor)
    first = min(max(LOWEST_FAR, 1 / impostor.size), 0.1)  # a decade at least, or there is no axis
    inside = curve.fmr > first
    within = curve.tmr[~inside]
    far = np.concatenate([[first], curve.fmr[inside], [1.0]])
    tar = np.concatenate([within[-1:] if within.size else [0.0], curve.tmr[inside], [curve.tmr[-1]]])
    return far, tar


def _canvas(title: str) -> "tuple[Figure, Axes]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11)
    axes.grid(True, which="major", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
