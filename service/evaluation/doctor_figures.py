"""The doctor's figure: how often different persons are alike in a gallery, against the calibration."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from service.evaluation.canvas import BLUE, VERMILION, canvas, png


def scores_figure(report: Mapping[str, Any]) -> bytes:
    """FMR against the threshold, on a log axis: of the calibration, and of the gallery with its 95 % interval."""
    figure, axes = canvas(f"{report['gallery']}: {report['persons']:,} persons, {report['faces']:,} faces")
    scores = report["impostor_scores"]
    at = [score["threshold"] for score in scores]
    axes.plot(at, [score["calibration_fmr"] for score in scores], "o-", color=BLUE, label="calibration")
    here = [score for score in scores if score["gallery_fmr"] > 0]
    rates = np.array([score["gallery_fmr"] for score in here])
    if len(here):
        low, high = np.array([score["gallery_fmr_interval"] for score in here]).T
        axes.errorbar(
            [score["threshold"] for score in here],
            rates,
            yerr=np.maximum([rates - low, high - rates], 0),
            fmt="s--",
            color=VERMILION,
            capsize=4,
            label="this gallery, 95 % interval",
        )
    axes.set_yscale("log")
    axes.set_xlabel("Threshold (cosine)")
    axes.set_ylabel("Share of pairs of different persons at or above it")
    axes.legend(loc="upper right", frameon=False)
    return png(figure)
