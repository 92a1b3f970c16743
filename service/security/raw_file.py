"""A file that is read and overwritten in place."""

import os
from pathlib import Path


class RawFile:
    """An open file; what was written is on the disk after ``sync``."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("r+b", buffering=0)
        self._descriptor = self._stream.fileno()

    def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes; fewer at the end of the file."""
        return os.pread(self._descriptor, size, offset)

    def write(self, offset: int, content: bytes) -> None:
        rest = memoryview(content)
        while rest:
            done = os.pwrite(self._descriptor, rest, offset)
            rest, offset = rest[done:], offset + done

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def close(self) -> None:
        # Twice does no harm, as it could with a bare number.
        self._stream.close()
