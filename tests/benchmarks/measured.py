"""What benchmarks measure of themselves: time and memory."""

import ctypes
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def clock(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that ``work`` took, and what it gave."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def resident() -> int:
    """Bytes of RAM in use by this process."""
    gc.collect()
    # What was freed before must not be counted as already there.
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
