"""What ``models.demo`` leaves behind: ``results.json``, a table and a figure."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from service.evaluation.folder import as_json, write_files

MEASURES = {"accuracy": "accuracy", "tar_at_far_1e-2": "TAR at FAR 1e-2", "tar_at_far_1e-3": "TAR at FAR 1e-3"}
DRAWN = ("accuracy", "tar_at_far_1e-2")
BLUE, GREY = "#0072B2", "#555555"
CONFIDENCE = 0.95


def write_report(results: dict[str, Any], out: Path) -> None:
    """Write the three files; ``results`` is what ``models.demo.compare`` makes."""
    files = {
        "figure.png": figure(results),
        "table.md": table(results).encode(),
        "results.json": as_json(results),
    }
    write_files(out, files)


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval by Student's t; 0 for a single value."""
    if len(values) < 2:
        return float(values.mean()), 0.0
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
    return float(values.mean()), float(quantile * values.std(ddof=1) / np.sqrt(len(values)))


def table(results: dict[str, Any]) -> str:
    """Markdown, best accuracy first: mean ± half of the 95 % interval over the seeds, in per cent."""
    lines = [
        "| loss | " + " | ".join(MEASURES.values()) + " | chosen |",
        "| --- |" + " --- |" * (len(MEASURES) + 1),
    ]
    for loss in ranked(results):
        cells = ["{:.1f} ± {:.1f} %".format(*(100 * v for v in interval(tests(results, loss, m)))) for m in MEASURES]
        entry = results["losses"][loss]
        chosen = ", ".join(f"{name} {value:g}" for name, value in {**entry["parameters"], "lr": entry["lr"]}.items())
        lines.append(f"| `{loss}` | {' | '.join(cells)} | {chosen} |")
    return "\n".join(lines) + "\n"


def figure(results: dict[str, Any]) -> bytes:
    """PNG: for each loss every seed as a point, their mean and its 95 % interval."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    losses = ranked(results)[::-1]
    canvas = Figure(figsize=(9.0, 0.8 + 0.32 * len(losses)), dpi=150, layout="constrained")
    FigureCanvasAgg(canvas)
    for axes, measure in zip(canvas.subplots(1, len(DRAWN), sharey=True), DRAWN, strict=True):
        for row, loss in enumerate(losses):
            values = 100 * tests(results, loss, measure)
            mean, half = interval(values)
            axes.errorbar(mean, row, xerr=half, fmt="o", color=BLUE, capsize=3, markersize=5, linewidth=1.4)
            axes.plot(values, np.full(len(values), row + 0.22), "|", color=GREY, markersize=5)
        axes.set_yticks(range(len(losses)), losses)
        axes.set_xlabel(f"{MEASURES[measure]} (%)")
        axes.grid(True, axis="x", color="#dddddd", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    people = results["people"]
    canvas.suptitle(
        f"{people['test']} people not trained on; {people['train-tuning']} trained on; mean, 95 % interval (t), "
        f"{results['seeds']} seeds",
        fontsize=10,
    )
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def ranked(results: dict[str, Any]) -> list[str]:
    """The losses, highest mean accuracy first."""
    return sorted(results["losses"], key=lambda loss: -float(tests(results, loss, "accuracy").mean()))


def tests(results: dict[str, Any], loss: str, measure: str) -> NDArray[np.float64]:
    """One figure of a loss, by seed."""
    return np.array([figures[measure] for figures in results["losses"][loss]["tests"]], np.float64)
