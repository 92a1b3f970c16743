"""Putting a finished bundle's folder where it is used, in steps that leave nothing half done when killed between."""

import os
import shutil
import time
from pathlib import Path

from service.errors import BundleError
from service.runtime.bundle import card_digest, open_bundle

STALE_S = 24 * 3600.0


def sync(folder: Path) -> None:
    """Flush a folder and its files to disk, so that after a power cut a renamed folder has its content."""
    for path in (*folder.iterdir(), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def move_into_place(folder: Path, final: Path) -> None:
    """Rename ``folder`` to ``final``; a sound bundle that is there already, by us or by another process, may stay."""
    if final.exists() and not _is_sound(final):
        shutil.rmtree(final)
    try:
        folder.replace(final)
    except OSError:
        if not _is_sound(final):
            raise


def _is_sound(path: Path) -> bool:
    """Whether the folder holds what its name says: a card with that digest, and networks that keep to it."""
    try:
        open_bundle(path)
        return path.name.endswith(f"-{card_digest(path)}")
    except (BundleError, OSError):
        return False


def same_but_measured(link: Path, folder: Path) -> Path | None:
    """The bundle in use, if the new one differs from it in nothing but how much faster the rewrites were found."""
    present = link.resolve()
    if not link.is_symlink() or not _is_sound(present):
        return None
    old, new = (open_bundle(path).card for path in (present, folder))
    if None in (old.graph, new.graph):
        return None
    return present if new.model_copy(update={"graph": old.graph}) == old else None


def point_link(link: Path, target: str) -> None:
    """Point ``link`` at ``target`` in one step; a reader sees the old or the new, never neither."""
    if link.is_dir() and not link.is_symlink():
        # A plain folder, as copying with links followed leaves one; it cannot be replaced in one step.
        shutil.rmtree(link)
    fresh = link.with_name(f".{link.name}-{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)


def sweep(home: Path) -> None:
    """Remove what killed adoptions left behind more than a day ago."""
    for left in home.glob(".making-*"):
        if time.time() - left.stat().st_mtime > STALE_S:
            shutil.rmtree(left, ignore_errors=True)
