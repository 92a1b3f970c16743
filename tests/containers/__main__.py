"""Builds the image here and lives with it: ``make image-test``. Prints what it measured, as Markdown.

    python -m tests.containers --work DIR            all of it
    python -m tests.containers --work DIR build      one step: base, build, run, clean

Needs root, Linux, and Debian's buildah, mmdebstrap, iproute2 and util-linux.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.containers.buildah import Buildah
from tests.containers.life import baked_life, first_life
from tests.containers.pip_host import pip_files

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("buildah", "mmdebstrap", "unshare", "nsenter", "ip")
PLAIN, BAKED, GPU = "localhost/likeness-test:cpu", "localhost/likeness-test:cpu-open", "localhost/likeness-test:gpu"


def main() -> int:
    """Run the steps that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for images; some 15 GB")
    parser.add_argument("--hadolint", default="hadolint", help="the program that lints the Dockerfile")
    parser.add_argument("steps", nargs="*", help="lint, base, build, run, gpu, clean (default: all but gpu)")
    args = parser.parse_args()
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if os.geteuid() or missing:
        print(
            f"This needs root, and: apt-get install buildah mmdebstrap iproute2 (missing: {missing})", file=sys.stderr
        )
        return 2
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    buildah = Buildah(work)
    steps: dict[str, Callable[[], None]] = {
        "lint": lambda: _lint(args.hadolint),
        "base": buildah.make_base,
        "build": lambda: _build(buildah),
        "run": lambda: _run(buildah),
        "gpu": lambda: _timed("gpu", lambda: buildah.build(ROOT, "gpu", GPU, pip_files(work), keep=False)),
        "clean": lambda: _clean(buildah),
    }
    for step in args.steps or ["lint", "base", "build", "run", "clean"]:
        steps[step]()
    return 0


def _lint(hadolint: str) -> None:
    subprocess.run([hadolint, str(ROOT / "Dockerfile")], check=True)
    print("| hadolint | no remark |")


def _build(buildah: Buildah) -> None:
    mounts = pip_files(buildah.folder)
    _timed("build of cpu", lambda: buildah.build(ROOT, "cpu", PLAIN, mounts))
    _timed("and with BUNDLE=open", lambda: buildah.build(ROOT, "cpu", BAKED, mounts, BUNDLE="open"))


def _run(buildah: Buildah) -> None:
    for name, live in ((PLAIN, first_life), (BAKED, baked_life)):
        buildah.remove()
        data = buildah.folder / "data"
        shutil.rmtree(data, ignore_errors=True)
        _show(live(buildah.mounted(name), data, buildah.config(name), pip_files(buildah.folder)))


def _clean(buildah: Buildah) -> None:
    buildah.remove()
    shutil.rmtree(buildah.folder)


def _timed(what: str, work: Callable[[], None]) -> None:
    start = time.monotonic()
    work()
    _show([(what, f"{time.monotonic() - start:.0f} s")])


def _show(rows: Sequence[tuple[str, str]]) -> None:
    for name, value in rows:
        print(f"| {name} | {value} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
