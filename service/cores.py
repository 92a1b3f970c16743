"""How many cores there are for this process."""

import os
from pathlib import Path

# Of a container, which sees its own control group at the root.
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def available_cores(limit: Path = CPU_MAX) -> int:
    """Cores that this process can keep busy: those that it may run on, and no more than its time limit is worth.

    A container that may use two cores' time of sixty-four, as Kubernetes' limits are meant, would be stopped for most
    of each tenth of a second if it had work for all of them.
    """
    bound = len(os.sched_getaffinity(0))
    quota = time_limit(limit)
    return bound if quota is None else min(bound, max(1, int(quota)))


def time_limit(limit: Path = CPU_MAX) -> float | None:
    """Cores' worth of time that the control group (version 2) allows; None where it does not limit it."""
    try:
        most, period = limit.read_text().split()
    except (OSError, ValueError):
        return None
    return None if most == "max" else int(most) / int(period)
