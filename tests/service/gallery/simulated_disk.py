"""A disk whose power can be cut: an APSW VFS that knows what was synced and what was only written.

What SQLite writes is seen by every later read at once, and is durable from the file's next sync on. At a cut each
write since then survives or not, in each of its sectors of 512 bytes on its own; a sector that does not may be torn
(new up to some byte, old from there on) or hold garbage. Likewise a truncation survives or not, and a file that was
made or deleted may be there or not until its folder is synced. As in SQLite's own VFS for Unix, the folder is synced
by the first sync of a journal or WAL that was opened, and by a deletion that asks for it.

Bytes of a sector outside of the write stay as they are. SQLite relies on that ("powersafe overwrite") unless it is
told otherwise, and so does the store. Locks and the WAL's shared memory, which no cut survives, are the operating
system's; the files that carry them stay empty.
"""

import random
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path

import apsw

SECTOR = 512
JOURNALS = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL | apsw.SQLITE_OPEN_WAL
KEPT = JOURNALS | apsw.SQLITE_OPEN_MAIN_DB
_names = (f"power-cut-{n}" for n in count())

Image = dict[str, bytes]
"""The files of a disk: contents by name."""


@dataclass
class _File:
    """``pending``: (offset, bytes) for a write, (size, None) for a truncation, since the last sync."""

    durable: bytearray
    current: bytearray
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def change(self, offset: int, data: bytes | None) -> None:
        _apply(self.current, offset, data)
        self.pending.append((offset, data))

    def sync(self) -> None:
        for offset, data in self.pending:
            _apply(self.durable, offset, data)
        self.pending.clear()

    def surviving(self, rng: random.Random, share: float) -> bytes:
        """The content after a cut, of whose unsynced sectors ``share`` survive."""
        content = bytearray(self.durable)
        for offset, data in self.pending:
            if data is None:
                if rng.random() < share:
                    _apply(content, offset, None)
                continue
            end = offset + len(data)
            edges = [offset, *range(offset - offset % SECTOR + SECTOR, end, SECTOR), end]
            for start, stop in pairwise(edges):
                piece = data[start - offset : stop - offset]
                if rng.random() >= share:
                    damaged = (piece[: rng.randrange(len(piece))], rng.randbytes(len(piece)))
                    piece = rng.choices((b"", *damaged), (0.8, 0.1, 0.1))[0]
                if piece:
                    _apply(content, start, piece)
        return bytes(content)


class Disk(apsw.VFS):
    """A VFS, registered under ``name``. SQLite goes on after the cut, but on a disk that is gone.

    Attributes:
        left: what the cut left; None before it.
    """

    def __init__(self, image: Image, rng: random.Random, cut_at: int, count_writes: bool) -> None:
        """The power is cut during the call number ``cut_at`` of those that change what a cut would leave.

        Args:
            image: what is on the disk at first.
            count_writes: whether writes are among the calls that count. There are many more of them than of the others
                (syncs, truncations, deletions).
        """
        self.name = next(_names)
        super().__init__(self.name, "unix")
        self.left: Image | None = None
        self._rng = rng
        self._calls_left = cut_at
        self._count_writes = count_writes
        self._there = {name: _File(bytearray(content), bytearray(content)) for name, content in image.items()}
        self._durably_there = dict(self._there)
        # Names with the file that was made, or None for a deletion.
        self._pending: list[tuple[str, _File | None]] = []

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        if name is None or not flags[0] & KEPT:
            return apsw.VFSFile("unix", name, flags)
        path = Path(name.filename() if isinstance(name, apsw.URIFilename) else name)
        key = path.name
        if key not in self._there:
            if not flags[0] & apsw.SQLITE_OPEN_CREATE:
                raise apsw.exception_for(apsw.SQLITE_CANTOPEN)
            self._there[key] = _File(bytearray(), bytearray())
            self._pending.append((key, self._there[key]))
        # The operating system's folder has no journal that a cut left.
        path.touch()
        return _Handle(self, self._there[key], name, flags)

    def xDelete(self, path: str, sync_folder: bool) -> None:
        self.about_to_change()
        key = Path(path).name
        if self._there.pop(key, None) is None:
            raise apsw.exception_for(apsw.SQLITE_IOERR_DELETE_NOENT)
        self._pending.append((key, None))
        if sync_folder:
            self.sync_folder()

    def xAccess(self, path: str, flags: int) -> bool:
        file = self._there.get(Path(path).name)
        # An empty file counts as none, as in SQLite's own VFS.
        return file is not None and (flags != apsw.SQLITE_ACCESS_EXISTS or bool(file.current))

    def raw(self, path: Path) -> "RawOnDisk":
        """What ``RawFile(path)`` is on this disk. A file that is new here was made whole and durable, as files are by
        ``replace_file``."""
        if path.name not in self._there:
            content = path.read_bytes()
            self._there[path.name] = self._durably_there[path.name] = _File(bytearray(content), bytearray(content))
        return RawOnDisk(self, self._there[path.name])

    def about_to_change(self, by_writing: bool = False) -> None:
        """Count the call, and cut the power if it is the one."""
        if by_writing and not self._count_writes:
            return
        self._calls_left -= 1
        if self._calls_left == 0:
            self.left = self._surviving()

    def sync_folder(self) -> None:
        for name, file in self._pending:
            if file is None:
                self._durably_there.pop(name, None)
            else:
                self._durably_there[name] = file
        self._pending.clear()

    def _surviving(self) -> Image:
        share = self._rng.choice((0.0, 0.5, 0.9, 1.0))
        versions: dict[str, list[_File | None]] = {name: [file] for name, file in self._durably_there.items()}
        for name, file in self._pending:
            versions.setdefault(name, [None]).append(file)
        image: Image = {}
        for name, files in versions.items():
            file = files[-1] if self._rng.random() < share else self._rng.choice(files)
            if file is not None:
                image[name] = file.surviving(self._rng, share)
        return image


class _Handle(apsw.VFSFile):
    """A file of the disk, opened; what this does not define (locks, shared memory) is the operating system's."""

    def __init__(self, disk: Disk, file: _File, name: str | apsw.URIFilename, flags: list[int]) -> None:
        super().__init__("unix", name, flags)
        self._disk = disk
        self._file = file
        self._sync_folder = bool(flags[0] & JOURNALS)

    def xRead(self, amount: int, offset: int) -> bytes:
        return bytes(self._file.current[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.about_to_change(by_writing=True)
        self._file.change(offset, bytes(data))

    def xTruncate(self, size: int) -> None:
        self._disk.about_to_change()
        self._file.change(size, None)

    def xSync(self, _flags: int) -> None:
        self._disk.about_to_change()
        self._file.sync()
        if self._sync_folder:
            self._disk.sync_folder()
            self._sync_folder = False

    def xFileSize(self) -> int:
        return len(self._file.current)


class RawOnDisk:
    """A ``RawFile`` on the disk."""

    def __init__(self, disk: Disk, file: _File) -> None:
        self._disk = disk
        self._file = file

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self._file.current[offset : offset + size])

    def write(self, offset: int, content: bytes) -> None:
        self._disk.about_to_change(by_writing=True)
        self._file.change(offset, content)

    def sync(self) -> None:
        self._disk.about_to_change()
        self._file.sync()

    def size(self) -> int:
        return len(self._file.current)

    def close(self) -> None:
        pass


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        return
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data
