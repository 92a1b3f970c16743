"""Progress of long jobs, on stderr: a bar on a terminal, a plain line every few seconds elsewhere."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")

PLAIN_INTERVAL_S = 5.0


def bar(total: int | None, what: str, unit: str = "it", unit_scale: bool = False, silent: bool = False) -> "tqdm[Any]":
    """A tqdm bar for manual ``update`` calls; without a terminal it prints plain lines instead of redrawing."""
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        desc=what,
        unit=unit,
        unit_scale=unit_scale,
        unit_divisor=1024 if unit == "B" else 1000,
        dynamic_ncols=terminal,
        mininterval=0.1 if terminal else PLAIN_INTERVAL_S,
        # A bar redraws its line with a carriage return; a log wants whole lines.
        file=sys.stderr if terminal else _Lines(),
        ascii=not terminal,
        disable=silent,
    )


def track(items: Iterable[T], what: str, total: int | None, unit: str = "it") -> Iterator[T]:
    """Yield ``items`` while showing how many are done, the rate and the time left."""
    with bar(total, what, unit) as progress:
        for item in items:
            yield item
            progress.update(1)


class _Lines:
    """A file for tqdm that turns each redraw into one line of stderr."""

    def write(self, text: str) -> int:
        line = text.strip("\r\n ")
        if line:
            sys.stderr.write(line + "\n")
        return len(text)

    def flush(self) -> None:
        sys.stderr.flush()
