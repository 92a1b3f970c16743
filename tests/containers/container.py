"""Starts a container of an image as Docker would with ``--read-only --cap-drop ALL``: namespaces, no daemon.

Of what Docker does this leaves out: its network, its seccomp filter, limits of memory and processes, its init.
"""

import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

UID = 10001
# In a mount namespace of its own: the files read-only, /data and /tmp not, no capability to change that.
_ENTER = """
set -eu
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t tmpfs -o size=64m,mode=1777,noexec,nosuid,nodev tmpfs "$root/tmp"
mount --bind "$data" "$root/data"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
{given}
mount -o remount,bind,ro "$root"
{network}
exec chroot "$root" /usr/bin/setpriv --reuid {uid} --regid {uid} --clear-groups --no-new-privs \\
  --inh-caps=-all --ambient-caps=-all --bounding-set=-all \\
  /usr/bin/env -i -C {folder} {environment} {command}
"""


@dataclass(frozen=True)
class Container:
    """A container's files and settings, to be run again and again.

    Attributes:
        root: its files.
        data: the folder that is its volume.
        config: the image's, as Docker reads it.
        given: files of this machine that are mounted into it.
        network: False: it has a loopback interface of its own, and nothing else.
    """

    root: Path
    data: Path
    config: Mapping[str, Any]
    given: Mapping[Path, str]
    network: bool = True

    @classmethod
    def of(
        cls, root: Path, data: Path, config: Mapping[str, Any], given: Mapping[Path, str], network: bool
    ) -> "Container":
        """A container whose volume, like a new one of Docker's, is what the image has there."""
        data.mkdir(mode=0o700)
        os.chown(data, UID, UID)
        files = given if network else {}
        for here, there in files.items():
            place = root / there.lstrip("/")
            if here.is_dir():
                place.mkdir(parents=True, exist_ok=True)
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.touch()
        return cls(root, data, config, files, network)

    def command(self, arguments: Sequence[str] | None = None, **environment: str) -> list[str]:
        """What runs the image's entry point with these arguments, or with those that the image has."""
        given = arguments if arguments is not None else self.config["Cmd"]
        return self._entered([*self.config["Entrypoint"], *given], environment)

    def run(self, *command: str, beside: int, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run any command in it to its end, as ``docker exec`` does: in the network of the process ``beside``."""
        entered = ["nsenter", "--target", str(beside), "--net", *self._entered(command, environment, apart=False)]
        return subprocess.run(entered, capture_output=True, text=True, timeout=240, check=False)

    @contextmanager
    def started(self, log: Path, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
        """The image's own command, in the background, until the block ends or it does."""
        with log.open("wb") as out:
            process = subprocess.Popen(self.command(**environment), stdout=out, stderr=out)
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    def _entered(self, command: Sequence[str], environment: Mapping[str, str], apart: bool | None = None) -> list[str]:
        alone = not self.network if apart is None else apart
        pairs = [*self.config["Env"], *(f"{name}={value}" for name, value in environment.items())]
        mounts = [f'mount --bind {shlex.quote(str(h))} "$root"{shlex.quote(t)}' for h, t in self.given.items()]
        script = _ENTER.format(
            given="\n".join(mounts),
            network="ip link set lo up" if alone else "",
            uid=UID,
            folder=shlex.quote(self.config["WorkingDir"]),
            environment=shlex.join(pairs),
            command=shlex.join(command),
        )
        namespaces = ["unshare", "--mount", *(["--net"] if alone else [])]
        return [*namespaces, "env", f"root={self.root}", f"data={self.data}", "sh", "-c", script]
