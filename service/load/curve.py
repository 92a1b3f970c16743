"""What a service can take, as a curve: throughput and latencies against the offered load."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from service.errors import Unavailable
from service.load.connection import Target
from service.load.generator import Arrivals, Outcome, closed_loop, open_loop

PERCENTILES = (50, 95, 99)
_SETTLE_S = 0.5


@dataclass(frozen=True)
class Point:
    """One run.

    Attributes:
        clients: of a closed loop; None in an open one.
        offered: requests a second that were sent; in a closed loop as many as were answered.
        throughput: answers with status 200 a second.
        p50_ms, p95_ms, p99_ms: latencies of those, in an open loop from the moment each was to be sent; None where
            there was none.
        refused: share of the requests that were answered 429.
        refusal_ms: median time until a refusal; None where there was none.
        failed: requests with any other answer, or with none.
    """

    clients: int | None
    offered: float
    throughput: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    refused: float
    refusal_ms: float | None
    failed: int


@dataclass(frozen=True)
class Curve:
    """Closed loops, then open loops at shares of the highest rate that a closed loop reached."""

    saturated: float
    unloaded_p50_ms: float
    arrivals: Arrivals
    closed: tuple[Point, ...]
    open: tuple[Point, ...]

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def measure(
    to: Target,
    clients: Sequence[int],
    shares: Sequence[float],
    seconds: float,
    arrivals: Arrivals,
    told: Callable[[Point], object],
) -> Curve:
    """Run each loop for so many seconds.

    Args:
        shares: of the saturated rate, the loads of the open loops.
        told: called after each run.

    Raises:
        Unavailable: not one request was answered with 200.
    """
    closed = []
    for number in clients:
        # A refused client tries again soon, as fast as it would if it knew when there is room.
        outcome = asyncio.run(closed_loop(to, number, seconds, retry_s=0.05))
        closed.append(point(outcome, number))
        told(closed[-1])
    saturated = max(p.throughput for p in closed)
    unloaded = closed[int(np.argmin(clients))].p50_ms
    if not saturated or unloaded is None:
        raise Unavailable("The service answered no request with 200; try the same call with curl to see why.")
    opened = []
    for share in shares:
        time.sleep(_SETTLE_S)
        opened.append(point(asyncio.run(open_loop(to, share * saturated, seconds, arrivals)), None))
        told(opened[-1])
    return Curve(saturated, unloaded, arrivals, tuple(closed), tuple(opened))


def point(outcome: Outcome, clients: int | None) -> Point:
    """The figures of one run."""
    total, good = sum(outcome.statuses.values()), len(outcome.latencies)
    p50, p95, p99 = 1000 * np.percentile(outcome.latencies, PERCENTILES) if good else (None, None, None)
    throughput = good / outcome.seconds
    refused = outcome.statuses.get(429, 0)
    return Point(
        clients,
        throughput if outcome.offered is None else outcome.offered,
        throughput,
        _float(p50),
        _float(p95),
        _float(p99),
        refused / max(total, 1),
        1000 * float(np.median(outcome.refusals)) if outcome.refusals else None,
        total - good - refused,
    )


def _float(value: object) -> float | None:
    return None if value is None else float(str(value))


HEADER = f"{'':<12}{'offered/s':>10}{'done/s':>9}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'429':>8}{'failed':>8}"


def line(found: Point, saturated: float | None) -> str:
    """One row of the table under ``HEADER``."""
    load = f"{100 * found.offered / saturated:.0f} % load" if saturated else "open"
    name = load if found.clients is None else f"{found.clients} clients"
    times = "".join(f"{'–' if t is None else format(t, '.1f'):>9}" for t in (found.p50_ms, found.p95_ms, found.p99_ms))
    offered = "–" if found.clients is not None else f"{found.offered:.1f}"
    share = f"{100 * found.refused:.1f} %"
    return f"{name:<12}{offered:>10}{found.throughput:>9.1f}{times}{share:>8}{found.failed:>8}"


def draw(curve: Curve, title: str, file: Path) -> None:
    """A PNG: throughput and refusals, and latencies, against the offered load."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    FigureCanvasAgg(figure)
    rates, times = figure.subplots(2, 1, sharex=True)
    offered = [p.offered for p in curve.open]
    rates.plot(offered, [p.throughput for p in curve.open], "o-", label="answered 200")
    rates.plot(offered, [p.offered * p.refused for p in curve.open], "s--", label="refused 429")
    rates.axline((0, 0), slope=1, color="0.7", linewidth=1, label="all that is offered")
    rates.axvline(curve.saturated, color="0.5", linestyle=":", label="saturated (closed loop)")
    rates.set(ylabel="requests a second", title=title, ylim=(0, 1.1 * max(offered)))
    for name in ("p50_ms", "p95_ms", "p99_ms"):
        times.plot(offered, [getattr(p, name) for p in curve.open], "o-", label=name.removesuffix("_ms"))
    times.axvline(curve.saturated, color="0.5", linestyle=":")
    times.set(xlabel="requests offered a second", ylabel="latency of accepted requests, ms", yscale="log")
    for axes in (rates, times):
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
    figure.savefig(file, dpi=120)
