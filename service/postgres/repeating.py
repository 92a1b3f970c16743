"""Work that is done again and again beside the event loop."""

import threading
from collections.abc import Callable


class Repeating:
    """Calls ``work``, waits ``pause_s``, and so on, in a thread of its own, until ``close``."""

    def __init__(self, work: Callable[[], None], pause_s: float, name: str) -> None:
        """
        Args:
            work: handles its own errors.
            name: of the thread.
        """
        self._work, self._pause_s = work, pause_s
        self._closing = threading.Event()
        # The process may end while PostgreSQL is silent and the thread waits for it.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self, patience_s: float = 5.0) -> None:
        """Let the last call end; one that does not within ``patience_s`` is left behind."""
        self._closing.set()
        self._thread.join(patience_s)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._work()
            self._closing.wait(self._pause_s)
