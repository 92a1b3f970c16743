"""How much memory the galleries that a replica follows may take together."""

import threading

from service.gallery.records import GalleryRecord

# Of a template's bytes, a row of an index: float32, and a copy in 8 bits.
ROW_BYTES = 4 * 1.25


class Room:
    """Shared out to galleries as they come; who has some keeps it, and may grow while there is more. Thread-safe."""

    def __init__(self, total: int) -> None:
        """``total``: bytes."""
        self.total = total
        self._taken: dict[int, int] = {}
        self._lock = threading.Lock()

    @property
    def taken(self) -> int:
        """Bytes, estimated from the numbers of persons and faces."""
        with self._lock:
            return sum(self._taken.values())

    def take(self, gallery: GalleryRecord) -> bool:
        """Whether there is room for the gallery as it is now; if not, it has none any more."""
        need = bytes_of(gallery)
        with self._lock:
            if sum(self._taken.values()) - self._taken.get(gallery.key, 0) + need <= self.total:
                self._taken[gallery.key] = need
                return True
            self._taken.pop(gallery.key, None)
            return False

    def has(self, key: int) -> bool:
        """Whether the gallery with this key has some."""
        with self._lock:
            return key in self._taken

    def give_back(self, key: int) -> None:
        """The gallery with this key needs none any more."""
        with self._lock:
            self._taken.pop(key, None)


def bytes_of(gallery: GalleryRecord) -> int:
    """About what a segment takes: a row a person, and the faces of those who have several."""
    several = min(gallery.faces, 2 * max(0, gallery.faces - gallery.persons))
    return int(gallery.dimension * (ROW_BYTES * gallery.persons + 4 * several))
