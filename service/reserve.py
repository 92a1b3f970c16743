"""Room on the disk that is kept for deletions.

A deletion writes before it frees anything, so on a full disk it would fail too, and people could not be erased. A
file of real bytes holds some room for it.
"""

import errno
import os
from pathlib import Path

# A delete writes the pages it changes to the WAL, and emptying the WAL may have to grow the database by what was
# added last; both together stay under this, for one person or for one step of a gallery's deletion.
RESERVE_BYTES = 16 * 2**20
_BLOCK = 2**20
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Reserve:
    """A file of ``size`` bytes that is given up for a deletion on a full disk. Not thread-safe."""

    def __init__(self, path: Path, size: int = RESERVE_BYTES) -> None:
        self.path = path
        self.size = size
        self.complete = False
        """All of it is there, as far as is known."""

    @classmethod
    def beside(cls, database: Path, size: int = RESERVE_BYTES) -> "Reserve":
        """The reserve of the database file ``database``."""
        return cls(database.with_name("reserve"), size)

    def release(self) -> None:
        """Give the room up."""
        self.complete = False
        # Not unlinked: a file system that is full may have no room for the change of the folder.
        if self.path.exists():
            os.truncate(self.path, 0)

    def restore(self) -> bool:
        """Take the room again, as much of it as there is; whether that is all."""
        if self.complete:
            return True
        try:
            self._fill()
        except OSError as error:
            if error.errno not in _FULL:
                raise
            return False
        self.complete = True
        return True

    def _fill(self) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            have = os.fstat(descriptor).st_size
            if have > self.size:
                os.ftruncate(descriptor, self.size)
            while have < self.size:
                # Random: zeros take no room on a file system that compresses.
                have += os.write(descriptor, os.urandom(min(_BLOCK, self.size - have)))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
