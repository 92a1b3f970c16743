"""What is in the memory of the service stays there."""

import os
import sys

PROGRAM = """
import ctypes, os, signal
from service.security import own_memory
own_memory.keep_private()
assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 0, "others may look into it"
assert os.listdir("/proc/self/fd"), "metrics count them"
os.kill(os.getpid(), signal.SIGQUIT)
"""


def test_a_crash_leaves_no_core() -> None:
    started = os.posix_spawn(sys.executable, [sys.executable, "-c", PROGRAM], os.environ)
    _, status = os.waitpid(started, 0)
    assert os.WIFSIGNALED(status)
    # The kernel says whether it wrote one.
    assert not os.WCOREDUMP(status)
