"""The figures of identification: the CMC and the open-set error trade-off, as PNG bytes."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from service.evaluation.canvas import BLUE, VERMILION, canvas, png, tick

DECADES = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)  # per cent


def cmc_figure(rates: NDArray[np.float64], interval: NDArray[np.float64], title: str) -> bytes:
    """The cumulative match characteristic: identification rate against rank, the latter on a log axis.

    Args:
        rates: (k,) share of the searches whose mate is within rank 1, 2, …, k.
        interval: (2, k) lower and upper end of its 95 % interval.
        title: two lines that say what was measured.
    """
    figure, axes = canvas(title)
    ranks, (low, high) = np.arange(1, len(rates) + 1), 100 * interval
    axes.fill_between(
        ranks, low, high, color=BLUE, alpha=0.2, linewidth=0, label="95 % interval, bootstrap over persons"
    )
    axes.plot(ranks, 100 * rates, color=BLUE, linewidth=1.8, label="identification rate")
    for rank in (rank for rank in (1, 5, 10) if rank <= len(rates)):
        rate = 100 * rates[rank - 1]
        axes.plot(rank, rate, "o", color=VERMILION, label=f"rank {rank}: {rate:.2f} %")
    axes.set_xscale("log")
    tick(axes.xaxis, [rank for rank in (1, 2, 5, 10, 20, 50, 100) if rank <= len(rates)])
    # The curve begins near the top; so does the axis.
    room = 0.05 * (100 - low[0]) + 0.1
    axes.set_ylim(max(0, low[0] - room), 100 + room)
    axes.set_xlabel("Rank k")
    axes.set_ylabel("Mate among the first k candidates (%)")
    axes.legend(loc="lower right", frameon=False)
    return png(figure)


def open_set_figure(
    fpir: NDArray[np.float64],
    fnir: NDArray[np.float64],
    spread: NDArray[np.float64],
    marked: Mapping[float, float],
    title: str,
) -> bytes:
    """The detection error trade-off of open-set searches: FNIR against FPIR, both on log axes.

    Args:
        fpir: (k,) rising, above 0.
        fnir: (k,) its mean over several galleries.
        spread: (k,) its standard deviation over these.
        marked: mean FNIR by FPIR, to be written beside the curve.
        title: two lines that say what was measured.
    """
    figure, axes = canvas(title)
    low, high = 100 * (fnir - spread), 100 * (fnir + spread)
    axes.fill_between(
        100 * fpir, low, high, color=BLUE, alpha=0.2, linewidth=0, label="± standard deviation of the halves"
    )
    axes.plot(100 * fpir, 100 * fnir, color=BLUE, linewidth=1.8, label="mean FNIR")
    for at, rate in marked.items():
        label = f"{100 * rate:.2f} % at FPIR {100 * at:g} %"
        axes.plot(100 * at, 100 * rate, "o", color=VERMILION, label=label)
    axes.set_xscale("log")
    tick(axes.xaxis, [tick for tick in DECADES if tick >= 100 * fpir[0]])
    # No lower than half of the smallest rate; a rate of 0 is below any log axis.
    bottom = 50 * fnir.min(initial=0.2, where=fnir > 0)
    axes.set_ylim(bottom, 110)
    axes.set_yscale("log", nonpositive="clip")
    tick(axes.yaxis, [tick for decade in DECADES for tick in (decade, 2 * decade, 5 * decade) if bottom <= tick <= 100])
    axes.set_xlabel("False positive identification rate, FPIR (%)")
    axes.set_ylabel("False negative identification rate, FNIR (%)")
    axes.legend(loc="upper right", frameon=False)
    return png(figure)
