"""What a training writes down as it goes: ``log.jsonl`` always, TensorBoard's events where its package is installed."""

import json
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any


class Log:
    """Figures by step. A context manager."""

    def __init__(self, out: Path, start: int, silent: bool) -> None:
        """
        Args:
            start: the step that the training goes on after; what was written of later ones is dropped.
            silent: write nothing, as one of several processes.
        """
        self._out, self._start, self._silent = out, start, silent
        self._events: Any = None

    def __enter__(self) -> "Log":
        if self._silent:
            return self
        path = self._out / "log.jsonl"
        before = path.read_text("utf-8").splitlines(keepends=True) if self._start and path.exists() else []
        # A line that a kill cut off is of a later step too: a checkpoint is written after the log.
        kept = [line for line in before if line.endswith("\n") and json.loads(line)["step"] <= self._start]
        self._file = path.open("w", encoding="utf-8")
        self._file.writelines(kept)
        self._file.flush()
        if find_spec("tensorboard") is None:
            print(
                "The package tensorboard is not installed: its events are not written, log.jsonl is.", file=sys.stderr
            )
        else:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(self._out, purge_step=self._start + 1)
        self._begin = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        if not self._silent:
            self._file.close()
        if self._events is not None:
            self._events.close()

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Add figures of a step; ``seconds`` since the log was opened go into the file with them."""
        if self._silent:
            return
        seconds = round(time.perf_counter() - self._begin, 3)
        self._file.write(json.dumps({"step": step, **figures, "seconds": seconds}) + "\n")
        if self._events is not None:
            for name, value in figures.items():
                self._events.add_scalar(name, value, step)

    def flush(self) -> None:
        """What was written so far is with the operating system when this returns."""
        if not self._silent:
            self._file.flush()
        if self._events is not None:
            self._events.flush()
