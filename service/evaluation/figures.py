"""The figures of verification: ROC, DET and the angles between embeddings, as PNG bytes."""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from service.evaluation.bootstrap import TarAtFar
from service.evaluation.canvas import BLUE, GREY, VERMILION, canvas, png, tick
from service.evaluation.comparisons import Comparisons
from service.evaluation.metrics import equal_error_rate, roc

LOWEST_FAR = 5e-7
POINTS = 2000
BINS = 70
DET_TICKS = (0.0001, 0.001, 0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0, 80.0, 95.0, 99.0)  # per cent

_normal_deviate = np.vectorize(NormalDist().inv_cdf, otypes=[np.float64])


def roc_figure(comparisons: Comparisons, measured: Sequence[TarAtFar], title: str) -> bytes:
    """The ROC of ISO/IEC 19795-1: true accept rate against false accept rate, the latter on a log axis.

    Args:
        measured: rates whose intervals are drawn.
        title: one line that says what was measured.
    """
    figure, axes = canvas(title)
    far, tar = _steps(comparisons)
    eer = _eer(comparisons)
    axes.step(far, tar, where="post", color=BLUE, linewidth=1.8, label="ROC")
    shown = [point for point in measured if point.far >= far[0]]
    if shown:
        tars, lows, highs = np.array([(point.tar, point.low, point.high) for point in shown]).T
        axes.errorbar(
            [point.far for point in shown],
            tars,
            # A percentile of the samples may lie on the wrong side by rounding.
            yerr=np.maximum([tars - lows, highs - tars], 0),
            fmt="none",
            ecolor=BLUE,
            elinewidth=1.2,
            capsize=4,
            label="95 % interval, bootstrap over persons",
        )
    visible = eer >= far[0]
    label = f"EER {100 * eer:.2f} %" + ("" if visible else ", left of this axis")
    axes.plot([eer] if visible else [], [1 - eer] if visible else [], "o", color=VERMILION, label=label)
    diagonal = np.geomspace(far[0], 1, 200)
    axes.plot(diagonal, 1 - diagonal, "--", color=GREY, linewidth=0.9, label="FAR = 1 − TAR")
    axes.set_xscale("log")
    axes.set_xlim(far[0], 1)
    # A good system lives in the topmost few percent; the axis begins where the curve does.
    low = min([float(tar[0]), 1 - eer, *(point.low for point in shown)])
    axes.set_ylim(max(0.0, low - 0.15 * (1 - low) - 0.002), 1 + 0.03 * (1 - low) + 0.0005)
    axes.set_xlabel("False accept rate (FAR)")
    axes.set_ylabel("True accept rate (TAR)")
    axes.legend(loc="lower right", frameon=False)
    return png(figure)


def det_figure(comparisons: Comparisons, title: str) -> bytes:
    """The detection error trade-off: false reject rate against false accept rate, on axes of normal deviates.

    Scores of two normal distributions of one width give a straight line of slope −1. Source: Martin, Doddington, Kamm,
    Ordowski, Przybocki, "The DET Curve in Assessment of Detection Task Performance", Eurospeech 1997.
    """
    figure, axes = canvas(title)
    far, tar = _steps(comparisons)
    frr, eer = 1 - tar, _eer(comparisons)
    left, right = float(far[0]), 0.5
    # Half of the smallest rate there is, so that the last step is seen; below it is the rate of 0, infinitely far down.
    bottom = min(0.1, float(frr.min(initial=0.2, where=(frr > 0) & (far <= right))) / 2)
    top = min(max(4 * float(frr[0]), 4 * eer, 10 * bottom), 0.999)
    inside = far <= right
    y = _normal_deviate(np.clip(frr[inside], bottom / 10, 0.9999))
    axes.step(_normal_deviate(far[inside]), y, where="post", color=BLUE, linewidth=1.8, label="DET")
    visible = max(left, bottom) <= eer <= right
    label = f"EER {100 * eer:.2f} %" + ("" if visible else ", outside")
    axes.plot(*(_normal_deviate([[eer], [eer]]) if visible else ([], [])), "o", color=VERMILION, label=label)
    ends = _normal_deviate([min(left, bottom), 0.999])
    axes.plot(ends, ends, "--", color=GREY, linewidth=0.9, label="FAR = FRR")
    axes.set_xlim(_normal_deviate([left, right]))
    axes.set_ylim(_normal_deviate([bottom, top]))
    for axis, low, high in ((axes.xaxis, left, right), (axes.yaxis, bottom, top)):
        ticks = [value for value in DET_TICKS if 100 * low <= value <= 100 * high]
        tick(axis, _normal_deviate(np.array(ticks) / 100).tolist(), ticks)
    axes.set_xlabel("False accept rate, FAR (%), normal deviate scale")
    axes.set_ylabel("False reject rate, FRR = 1 − TAR (%)")
    axes.legend(loc="upper right", frameon=False)
    return png(figure)


def angle_figure(comparisons: Comparisons, threshold: float | None, title: str) -> bytes:
    """Densities of the angles between the two embeddings of genuine and of impostor pairs, in degrees.

    Pairs that could not be compared are left out. The upper axis has the cosines, which are the scores.

    Args:
        threshold: a cosine; a score at or above it is a match. None for no line.
    """
    figure, axes = canvas(title)
    parts = [
        ("impostor", comparisons.impostor, comparisons.stand_for, VERMILION, "--"),
        ("genuine", comparisons.genuine, np.ones_like(comparisons.genuine), BLUE, "-"),
    ]
    angles = {kind: _degrees(scores[np.isfinite(scores)]) for kind, scores, *_ in parts}
    edges = np.histogram_bin_edges(np.concatenate(list(angles.values())), BINS)
    for kind, scores, stand_for, colour, line in parts:
        if angles[kind].size:
            weights = stand_for[np.isfinite(scores)]
            density = np.histogram(angles[kind], edges, weights=weights, density=True)[0]
            axes.stairs(density, edges, fill=True, color=colour, alpha=0.25)
            legend = f"{kind} (n = {round(weights.sum()):,})"
            axes.stairs(density, edges, color=colour, linewidth=1.6, linestyle=line, label=legend)
    if threshold is not None:
        angle = float(_degrees(np.array(threshold)))
        axes.axvline(angle, color="black", linewidth=1.2, linestyle=":", label=f"threshold {angle:.1f}°")
    axes.set_xlabel("Angle between the embeddings (degrees)")
    axes.set_ylabel("Probability density (per degree)")
    axes.set_xlim(edges[0], edges[-1])
    upper = axes.twiny()
    upper.set_xlim(axes.get_xlim())
    upper.spines["right"].set_visible(False)
    cosines = [cosine for cosine in np.linspace(-1, 1, 11).round(1) if edges[0] <= _degrees(cosine) <= edges[-1]]
    tick(upper.xaxis, _degrees(np.array(cosines)).tolist(), cosines)
    upper.set_xlabel("Similarity score (cosine)")
    figure.legend(loc="outside lower center", frameon=False, ncols=3, fontsize=9, columnspacing=1.2)
    return png(figure)


def _degrees(cosines: NDArray[np.float64]) -> NDArray[np.float64]:
    angles: NDArray[np.float64] = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    return angles


def _eer(comparisons: Comparisons) -> float:
    return equal_error_rate(comparisons.genuine, comparisons.impostor, comparisons.stand_for)


def _steps(comparisons: Comparisons) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(k,) rising FAR from the smallest drawn to 1, and the highest TAR that each permits; steps too fine to be seen
    are left out."""
    curve = roc(comparisons.genuine, comparisons.impostor, comparisons.stand_for)
    first = min(max(LOWEST_FAR, 1 / comparisons.impostors), 0.1)  # a decade at least, or there is no axis
    within = curve.tmr[curve.fmr <= first]
    grid = np.geomspace(first, 1, POINTS)
    # Of the steps between two places of the grid the last one, where the TAR is highest.
    steps = np.unique(np.searchsorted(curve.fmr, grid[1:], "right")) - 1
    steps = steps[steps >= 0]
    steps = steps[curve.fmr[steps] > first]
    far = np.concatenate([[first], curve.fmr[steps], [1.0]])
    tar = np.concatenate([_last(within), curve.tmr[steps], _last(curve.tmr)])
    return far, tar


def _last(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """(1,): the last of rising rates; 0 where there is none, as no score could be compared."""
    return rates[-1:] if rates.size else np.zeros(1)
