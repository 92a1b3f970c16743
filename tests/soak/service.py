"""The real service for a soak: on a small disk of its own, with access keys, and a clock that can be set."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx2

DISK_BYTES = 256 * 2**20
_LISTENING = re.compile(r"http://127\.0\.0\.1:\d+")
_CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("LIKENESS_")}


@dataclass(frozen=True)
class Disk:
    """A small file system. ``folder`` is its path for commands that begin with ``enter``, ``here`` for us."""

    folder: Path
    here: Path
    enter: Sequence[str]
    bounded: bool

    def fill(self) -> None:
        """Leave not a byte; an own disk only."""
        # The service may take the last bytes itself.
        with (self.here / "filler").open("ab", buffering=0) as filler, suppress(OSError):
            while os.statvfs(self.here).f_bavail:
                filler.write(bytes(4096))

    def empty(self) -> None:
        (self.here / "filler").unlink(missing_ok=True)


@contextmanager
def disk(folder: Path) -> Iterator[Disk]:
    """A tmpfs in a mount namespace on ``folder``; where that is not permitted the folder itself, unbounded."""
    mount = 'mount -t tmpfs -o size="$0" soak "$1" && echo mounted && exec cat'
    for kinds in (["--mount"], ["--user", "--mount"]):
        options = [*kinds, *(["--map-root-user"] if "--user" in kinds else [])]
        command = ["unshare", *options, "sh", "-c", mount, str(DISK_BYTES), str(folder)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as holder:
            assert holder.stdout is not None
            if holder.stdout.readline():
                keep = ["--preserve-credentials"] if "--user" in kinds else []
                enter = ["nsenter", f"--target={holder.pid}", *kinds, *keep, "--"]
                yield Disk(folder, Path(f"/proc/{holder.pid}/root") / folder.relative_to("/"), enter, bounded=True)
                return
    print("No small disk may be mounted here: the disk will not be filled.")
    yield Disk(folder, folder, [], bounded=False)


class Clock:
    """What the service takes for the time of day, shifted; real if there is no C compiler."""

    def __init__(self, folder: Path) -> None:
        self._file, library = folder / "offset", folder / "clock.so"
        self._file.write_text("0")
        source = Path(__file__).with_name("clock.c")
        compiler = ["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"]
        try:
            subprocess.run(compiler, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            print("There is no C compiler here: the clock will not be set.")
            self.environment: dict[str, str] = {}
        else:
            self.environment = {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(self._file)}

    def set(self, seconds: int) -> None:
        """So far from the real time."""
        beside = self._file.with_suffix(".new")
        beside.write_text(str(seconds))
        beside.replace(self._file)


class Service:
    """``likeness serve`` that is killed and started again on the same folder and port."""

    def __init__(self, on: Disk, clock: Clock, bundle: Path, logs: Path) -> None:
        self._disk, self._bundle, self._log = on, bundle, logs / "service.log"
        self._environment = {**_CLEAN, **clock.environment}
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.key = self._likeness("keys", "create")

    def start(self, patience_s: float = 120) -> None:
        """Return when it is ready."""
        command = [*self._command("serve"), "--bundle", str(self._bundle), "--port", str(self._port), "--drain-s", "0"]
        start = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=self._environment)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and self._process.poll() is None:
            text = self._log.read_bytes()[start:].decode(errors="replace")
            if found := _LISTENING.search(text):
                self.url = found[0]
                self._port = int(self.url.rpartition(":")[2])
                try:
                    if httpx2.get(f"{self.url}/v1/health/ready", timeout=5).status_code == 200:
                        return
                except httpx2.TransportError:
                    pass
            time.sleep(0.1)
        raise SystemExit(f"The service did not come up, see {self._log}.")

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def resident_mib(self) -> float:
        """Of the service and its decoders."""
        assert self._process is not None
        return sum(_resident(pid) for pid in _family(self._process.pid)) / 2**20

    def verify_audit(self) -> int:
        """How many lines the audit log has. Raises if one is not as it was written."""
        return int(json.loads(self._likeness("audit", "verify", "--json"))["lines"])

    def _likeness(self, *arguments: str) -> str:
        done = subprocess.run(
            self._command(*arguments), capture_output=True, text=True, check=False, env=self._environment
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        return done.stdout.strip()

    def _command(self, *arguments: str) -> list[str]:
        main = [sys.executable, "-m", "service.cli.main", *arguments]
        return [*self._disk.enter, *main, "--data-dir", str(self._disk.folder)]


def _family(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [child for one in (task / "children").read_text().split() for child in _family(int(one))]
    return found


def _resident(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
