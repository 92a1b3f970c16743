"""What a calibration leaves behind: the points for the bundle, a table of them, and the curve as a picture.

::

    OUT/calibration.json   to be put into the bundle
    OUT/curve.png          both error rates against the threshold, with their intervals
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from service.decision.persons import PersonRates
from service.decision.thresholds import LISTED_FMRS, Thresholds
from service.evaluation.canvas import BLUE, GREY, VERMILION, canvas, png
from service.evaluation.folder import aligned, as_json, write_files
from service.runtime.card import Calibration, OperatingPoint


def write_calibration(calibration: Calibration, out: Path) -> None:
    """Write both files into ``out``, a folder, made if it is not there."""
    title = f"{calibration.dataset}: {calibration.persons:,} persons, {calibration.photos:,} photos"
    figure = curve_figure(calibration, title)
    write_files(out, {"curve.png": figure, "calibration.json": as_json(calibration.model_dump(mode="json"))})


def calibration_summary(calibration: Calibration) -> str:
    """The figures as aligned lines for a terminal, without a newline at the end."""
    thresholds = Thresholds(calibration)
    worth = calibration.effective_impostor
    lines = [
        ("data set", f"{calibration.dataset}, {calibration.photos:,} photos of {calibration.persons:,} persons"),
        ("comparisons", f"{calibration.genuine:,} genuine, {calibration.impostor:,} impostor"),
        ("worth", f"{worth:,.0f} independent impostor comparisons at the last point" if worth else "not measured"),
        ("smallest FMR", f"{thresholds.smallest_fmr:.2g}; below, the data cannot speak (rule of 3)"),
    ]
    for point in (thresholds.choose(fmr=fmr) for fmr in LISTED_FMRS if fmr >= calibration.points[-1].fmr):
        ends = point.fmr_interval and f" ({point.fmr_interval[0]:.2g} to {point.fmr_interval[1]:.2g})"
        fnmr = point.fnmr_interval and f" ({100 * point.fnmr_interval[0]:.2f} to {100 * point.fnmr_interval[1]:.2f} %)"
        assert point.fnmr is not None
        rates = f"FNMR {100 * point.fnmr:.2f} %{fnmr or ''}"
        lines.append(
            (f"FMR {point.fmr:.0e}".replace("e-0", "e-"), f"threshold {point.threshold:.4f}, {rates}; FMR{ends}")
        )
    if calibration.of_mean:
        several, some = PersonRates(calibration), np.array([2.0, 5.0])
        (two, five), misses = several.stretch(some), 100 * several.misses(some)
        told = f"strangers × {two:.3f} and {five:.3f}, FNMR {misses[0]:.0f} % and {misses[1]:.0f} % of one photo's"
        lines.append(("2, 5 photos", told))
    if calibration.tail:
        tail = calibration.tail
        start = f"from FMR {tail.start_fmr:.2g}, {tail.exceedances:,} scores"
        lines.append(("tail", f"ξ = {tail.shape:.3f}, σ = {tail.scale:.4f} {start}; to FMR {tail.points[-1].fmr:.1g}"))
    return aligned(lines)


def curve_figure(calibration: Calibration, title: str) -> bytes:
    """FMR and FNMR against the threshold, the rates on a log axis; bands are 95 % intervals."""
    figure, axes = canvas(title)
    measured, tail = calibration.points, calibration.tail.points if calibration.tail else ()
    # The tail's threshold may rest where the counted points end.
    beyond = [point for point in tail if measured[-1].threshold < point.threshold < 1]
    for points, line, note in ((measured, "-", ""), ((measured[-1], *beyond), "--", ", fitted tail")):
        if len(points) < 2:
            continue
        at = [point.threshold for point in points]
        axes.plot(at, [p.fmr for p in points], line, color=VERMILION, linewidth=1.6, label=f"FMR{note}")
        axes.plot(at, [p.fnmr for p in points], line, color=BLUE, linewidth=1.6, label=None if note else "FNMR")
        for low, high, colour in (("fmr_low", "fmr_high", VERMILION), ("fnmr_low", "fnmr_high", BLUE)):
            axes.fill_between(at, _column(points, low), _column(points, high), color=colour, alpha=0.2, linewidth=0)
    axes.set_yscale("log")
    axes.set_ylim(max((beyond or measured)[-1].fmr / 3, 1e-10), 1)
    axes.axhline(measured[-1].fmr, color=GREY, linewidth=0.9, linestyle=":", label="rule of 3")
    axes.set_xlabel("Threshold (cosine)")
    axes.set_ylabel("Error rate, bands: 95 % intervals")
    axes.legend(loc="lower left", frameon=False)
    return png(figure)


def _column(points: Sequence[OperatingPoint], name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.maximum([getattr(point, name) or 0 for point in points], 1e-12)
