"""What the figures of evaluations share: a canvas of 900 × 650 pixels, colours, ticks, PNG bytes.

matplotlib is imported by the functions, since only evaluations need it and it takes a second to load. pyplot
is left out: its global state is not safe among threads.
"""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

SIZE_INCHES = (6.0, 4.3334)
DPI = 150

# Okabe and Ito's palette, told apart with every common kind of colour blindness.
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#555555"
GREEN, ORANGE, PURPLE, SKY = "#009E73", "#E69F00", "#CC79A7", "#56B4E9"


def canvas(title: str) -> "tuple[Figure, Axes]":
    """A figure with one pair of axes."""
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


def tick(axis: "Axis", places: Sequence[float], values: Sequence[float] | None = None) -> None:
    """Ticks at these places, written as plain numbers: the values there, if those differ from the places."""
    axis.set_ticks(places, labels=[f"{value:g}" for value in (places if values is None else values)])
    axis.set_ticks([], minor=True)


def png(figure: "Figure") -> bytes:
    """The picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
