"""The data folder: is it there, who may read it, is there room, and do its keys open?"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from service.diagnosis.access import access_keys
from service.diagnosis.finding import Finding, State
from service.errors import LikenessError

if TYPE_CHECKING:
    from service.settings import Settings

MIB = 1 << 20
# Below the first nothing can be enrolled for long, below the second not at all: the log of the database alone grows
# to some megabytes, and a reserve is kept.
ROOM_WANTED, ROOM_NEEDED = 1024 * MIB, 64 * MIB
_SECRET = ("keys", "gallery", "audit")
# File systems keep times in their own grain, and clocks of containers and hosts differ by moments.
_FUTURE_S = 60.0


def data_folder(settings: "Settings") -> Iterator[Finding]:
    """There, ours, writable, closed to others, with room."""
    folder = settings.data_dir
    if not folder.is_dir():
        found = f"{folder.resolve()} is not there"
        yield Finding("data folder", "fail", found, "likeness pull makes it; or set LIKENESS_DATA_DIR (--data-dir).")
        return
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        found = f"{folder.resolve()} cannot be written to by user {os.geteuid()}: {error.strerror}"
        yield Finding("data folder", "fail", found, f"chown it to the user that serves (now {folder.stat().st_uid}).")
        return
    yield Finding("data folder", "ok", f"{folder.resolve()} can be written to")
    yield from _private(folder)
    free = shutil.disk_usage(folder).free
    state: State = "fail" if free < ROOM_NEEDED else "warn" if free < ROOM_WANTED else "ok"
    yield Finding(
        "disk", state, f"{free / MIB:,.0f} MiB free", "" if state == "ok" else "Make room, or move the folder."
    )


def keys(settings: "Settings") -> Iterator[Finding]:
    """The master key opens the persons' keys, and there is an access key."""
    if settings.database_url is not None:
        # See service.diagnosis.database.
        return
    from service.security.access_key_file import AccessKeyFile
    from service.security.key_file import FILE_NAME, read_secret
    from service.security.master_key import FilePlace

    folder = settings.keys_folder()
    place = settings.master_place()
    try:
        if (folder / FILE_NAME).exists():
            read_secret(folder, place)
            yield Finding("master key", "ok", f"in {place.where}, and it opens {folder / FILE_NAME}")
        elif isinstance(place, FilePlace):
            yield Finding("master key", "ok", "none yet: made at the first start")
        else:
            place.read(may_make=False)
            yield Finding("master key", "ok", f"in {place.where}; nothing is sealed with it yet")
    except LikenessError as error:
        yield Finding("master key", "fail", error.message)
    # Reading needs no secret; only what is presented is compared with one.
    yield from access_keys(settings, AccessKeyFile(folder, b"").all())


def clock(settings: "Settings") -> Iterator[Finding]:
    """Persons are erased by the clock, so it should be about right."""
    now = time.time()
    # The newest thing that is known to have been: this code.
    made = Path(__file__).stat().st_mtime
    newest = max((entry.stat().st_mtime for entry in _entries(settings.data_dir)), default=made)
    at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if max(made, newest) > now + _FUTURE_S:
        ahead = (max(made, newest) - now) / 3600
        found = f"{at}, but there are files from {ahead:.1f} hours later"
        yield Finding("clock", "warn", found, "Set the clock; keys expire and persons are erased by it.")
    else:
        yield Finding("clock", "ok", at)


def _private(folder: Path) -> Iterator[Finding]:
    open_to_others, foreign = [], []
    for name in _SECRET:
        for entry in _entries(folder / name):
            status = entry.stat()
            if status.st_mode & 0o077:
                open_to_others.append(entry)
            if status.st_uid != os.geteuid():
                foreign.append((entry, status.st_uid))
    if open_to_others:
        worst = open_to_others[0]
        state: State = "fail" if any(folder / "keys" in (path, *path.parents) for path in open_to_others) else "warn"
        found = (
            f"other users may open {worst} (mode {worst.stat().st_mode & 0o777:o}) and {len(open_to_others) - 1} more"
        )
        yield Finding("permissions", state, found, f"chmod -R go= {' '.join(str(folder / name) for name in _SECRET)}")
    if foreign:
        path, owner = foreign[0]
        found = f"{path} and {len(foreign) - 1} more belong to user {owner}, and this is user {os.geteuid()}"
        yield Finding("owner", "fail" if os.geteuid() else "warn", found, "Serve as that user, or chown -R the folder.")
    if not open_to_others and not foreign:
        yield Finding("permissions", "ok", "keys, templates and the audit log are for their owner only")


def _entries(folder: Path) -> Iterator[Path]:
    """A folder and what lies in it."""
    if folder.is_dir():
        yield folder
        yield from (entry for entry in folder.iterdir() if not entry.is_symlink())
