"""Files and folders that only their owner may read, and that are on the disk when they are said to be."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.errors import NotReady


class FolderInUse(NotReady):
    """Another process works on this data folder."""


def make_private_folder(folder: Path) -> None:
    """Make ``folder``, with its parents, if it is missing."""
    if not folder.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_folder(folder.parent)


def make_private_file(path: Path) -> None:
    """Make ``path`` if it is missing, and take it from others in any case."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    path.chmod(0o600)
    sync_folder(path.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Put ``content`` under ``path``, whole or not at all; what was there is overwritten on the disk."""
    beside = path.with_name(path.name + ".new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        _write(descriptor, content)
    finally:
        os.close(descriptor)
    old = os.open(path, os.O_WRONLY | os.O_CLOEXEC) if path.exists() else None
    try:
        beside.replace(path)
        sync_folder(path.parent)
        if old is not None:
            _write(old, bytes(os.fstat(old).st_size))
    finally:
        if old is not None:
            os.close(old)


def lock_folder(folder: Path, means: str = "data folder") -> int:
    """Lock ``folder`` until the descriptor that comes back is closed, or the process ends. Raises FolderInUse."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise FolderInUse(
            f"Another process works on the {means} {folder}. Stop it, or use another data folder.",
            {"folder": str(folder)},
        ) from error
    return descriptor


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Hold the file ``path`` alone, among all processes; others wait."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make what was made, renamed or deleted in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    os.fsync(descriptor)
