"""Builds images without a daemon and without a registry: Debian's buildah, in folders of its own."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BASE = "localhost/likeness-test-base"
# What the base has that python:slim has, too.
PACKAGES = "python3,python3-venv,ca-certificates"


@dataclass(frozen=True)
class Buildah:
    """All that it keeps is under ``folder``."""

    folder: Path

    def run(self, *arguments: str) -> str:
        """A command's standard output. Raises CalledProcessError; what went wrong is on our standard error."""
        storage = [
            "--root",
            str(self.folder / "root"),
            "--runroot",
            str(self.folder / "run"),
            "--storage-driver",
            "vfs",
        ]
        command = ["buildah", *storage, *arguments]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()

    def make_base(self, suite: str = "bookworm") -> None:
        """A minimal Debian with Python, as the base image that no registry is needed for."""
        archive = self.folder / "base.tar"
        if not archive.exists():
            part = archive.with_suffix(".part.tar")
            subprocess.run(
                ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", suite, part], check=True
            )
            part.rename(archive)
        container = self.run("from", "scratch")
        self.run("add", "--quiet", container, str(archive), "/")
        self.run("commit", "--quiet", "--rm", "--format", "docker", container, BASE)

    def build(
        self, context: Path, target: str, name: str, mounts: dict[Path, str], keep: bool = True, **arguments: str
    ) -> None:
        """The repository's Dockerfile, on our base. Docker's format: the other one has no health checks.

        Args:
            keep: what each step has made, for another build; a whole copy of the files each.
        """
        volumes = [part for here, there in mounts.items() for part in ("--volume", f"{here}:{there}:ro")]
        given = {"BASE_IMAGE": BASE, **arguments}
        self.run(
            *("build", "--isolation", "chroot", "--format", "docker", f"--layers={str(keep).lower()}", "--pull-never"),
            *volumes,
            *(part for pair in given.items() for part in ("--build-arg", "=".join(pair))),
            *("--target", target, "--tag", name, str(context)),
        )

    def config(self, name: str) -> dict[str, Any]:
        """What an image says of itself, as Docker reads it."""
        found: dict[str, Any] = json.loads(self.run("inspect", "--type", "image", name))["Docker"]["config"]
        return found

    def mounted(self, name: str) -> Path:
        """A container's files, made from an image."""
        return Path(self.run("mount", self.run("from", "--pull-never", name)))

    def remove(self, images: Sequence[str] = ()) -> None:
        """All containers, and these images."""
        self.run("rm", "--all")
        if images:
            self.run("rmi", "--force", *images)
