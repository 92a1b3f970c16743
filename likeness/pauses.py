"""The pauses between the attempts of an ``AsyncClient``: its end is the end of all of them."""

import anyio


class Pauses:
    """Those of one client and of its copies with other options. For one event loop, as the client is."""

    def __init__(self) -> None:
        self._closed = False
        # One a pause: an event belongs to the loop that runs when it is made, and a client may be made before.
        self._under_way: set[anyio.Event] = set()

    async def wait(self, seconds: float) -> bool:
        """Wait so long, or until the end; whether it has come."""
        if not self._closed:
            end = anyio.Event()
            self._under_way.add(end)
            try:
                with anyio.move_on_after(seconds):
                    await end.wait()
            finally:
                self._under_way.discard(end)
        return self._closed

    def end(self) -> None:
        """End all pauses, those under way and those to come."""
        self._closed = True
        for end in self._under_way:
            end.set()
