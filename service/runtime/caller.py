"""Who asks, how long they will wait, and whether they still do: travels with a request into every thread."""

import math
import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from service.errors import CallerLeft, DeadlineExceeded


@dataclass(eq=False)
class Caller:
    """One request's sender.

    Attributes:
        tenant: those with the same name share one fair part of the service.
        deadline: ``time.monotonic()`` after which nobody waits for the answer.
        left: whether the connection is gone; set once, read by any thread.
        held_bytes: of the request's body, as counted by ``service.api.intake``.
    """

    tenant: str = ""
    deadline: float = math.inf
    left: bool = False
    held_bytes: int = 0
    _started: float = field(default_factory=time.monotonic)

    def check(self) -> None:
        """Called before anything that costs.

        Raises:
            CallerLeft: nobody would read the answer.
            DeadlineExceeded: it would come too late.
        """
        if self.left:
            raise CallerLeft("The caller has left.")
        if time.monotonic() >= self.deadline:
            raise self.too_late()

    def too_late(self) -> DeadlineExceeded:
        """The error of a request whose deadline has passed."""
        allowed = self.deadline - self._started
        return DeadlineExceeded(
            f"The answer was not ready within the {allowed:.3g} s that the request may take. Try again later.",
            {"deadline_s": round(allowed, 3), "retry_after_s": 1},
        )


_CURRENT: ContextVar[Caller] = ContextVar("caller")


def current() -> Caller:
    """The caller that this thread or task works for; on the command line one who waits for ever."""
    found = _CURRENT.get(None)
    return Caller() if found is None else found


def work_for(caller: Caller) -> None:
    """From here on this task, and all threads and tasks it starts, work for ``caller``."""
    _CURRENT.set(caller)
