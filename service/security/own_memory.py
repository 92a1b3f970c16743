"""The memory of the service, in which templates and keys lie in clear: kept off the disk and from other programs."""

import ctypes
import resource

_PR_SET_DUMPABLE = 4


def keep_private() -> None:
    """No core of this process is written when it crashes, and no process of the same user may look into it.

    Root still may. Processes that it starts are not concerned by the second.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Programs that cores are piped to do not all heed the limit.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
