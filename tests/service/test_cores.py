"""How many cores a container's limit leaves."""

import os
from pathlib import Path

import pytest

from service.cores import available_cores, time_limit


@pytest.mark.parametrize(
    ("told", "limit", "most"),
    [
        ("max 100000\n", None, 1024),
        ("100000 100000\n", 1.0, 1),
        ("150000 100000\n", 1.5, 1),
        ("50000 100000\n", 0.5, 1),
        ("200000 100000\n", 2.0, 2),
        ("6400000 100000\n", 64.0, 64),
        ("", None, 1024),
    ],
)
def test_a_limit_of_time_is_a_limit_of_cores(tmp_path: Path, told: str, limit: float | None, most: int) -> None:
    (tmp_path / "cpu.max").write_text(told)
    assert time_limit(tmp_path / "cpu.max") == limit
    assert available_cores(tmp_path / "cpu.max") == min(most, len(os.sched_getaffinity(0)))


def test_without_control_groups_it_is_what_the_process_is_bound_to(tmp_path: Path) -> None:
    assert available_cores(tmp_path / "none") == len(os.sched_getaffinity(0))
