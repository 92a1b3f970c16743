"""What the README tells a newcomer, word by word: ``make walk``. Prints what was typed and how long it took.

In a fresh clone of what is committed, with nothing of this machine but its way to packages: ``make run``, then every
command of the README against the service that it starts, and the page.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from tests.conftest import ROOT
from tests.docs.blocks import assert_first_steps, blocks_of
from tests.served import free_port

PATIENCE_S = 1200.0


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows: list[tuple[str, float]] = []
    with tempfile.TemporaryDirectory() as made:
        clone, port = Path(made) / "likeness", free_port()
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        with running(clone, port) as (key, seconds):
            rows.append(("make run", seconds))
            rows += typed(clone, f"http://127.0.0.1:{port}", key)
        with running(clone, port) as (key, seconds):
            assert key == "", "the second start showed a key again"
            rows.append(("make run, once more", seconds))
    print("| typed | seconds |\n| --- | --- |")
    for command, seconds in rows:
        print(f"| `{command}` | {seconds:.1f} |")
    return 0


@contextmanager
def running(clone: Path, port: int) -> Iterator[tuple[str, float]]:
    """``make run`` until the end of the block: the key that it printed, and seconds until it said ``Ready``."""
    log, start = clone / "run.log", time.monotonic()
    with log.open("wb") as out:
        command = ["make", "run", f"PORT={port}"]
        # A group of its own, which Ctrl-C reaches as a whole.
        process = subprocess.Popen(
            command, cwd=clone, env=bare(), stdout=out, stderr=out, process_group=0, stdin=subprocess.DEVNULL
        )
    try:
        while "Ready" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < start + PATIENCE_S, log.read_text()
            time.sleep(0.1)
        seconds = time.monotonic() - start
        found = re.search(r"^lk_\S+$", log.read_text(), re.MULTILINE)
        yield found[0] if found else "", seconds
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)


def typed(clone: Path, url: str, key: str) -> Iterator[tuple[str, float]]:
    """Each command of the README in one shell, one after the other, and its seconds. AssertionError if one fails."""
    script = ["set -e", "shopt -s expand_aliases", f"export LIKENESS_URL={url}"]
    commands = [line for block in blocks_of(clone / "README.md") if block.is_run for line in block.commands]
    assert len(commands) > 5
    for command in commands:
        script += [command.replace("lk_…", key).replace("http://127.0.0.1:8000", url), "date +'at %s.%N' >&2"]
    start = time.time()
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)], cwd=clone, env=bare(), capture_output=True, text=True, check=False
    )
    print(done.stdout, file=sys.stderr)
    assert done.returncode == 0, done.stderr
    assert_first_steps(done.stdout)
    ends = [float(line.removeprefix("at ")) for line in done.stderr.splitlines() if line.startswith("at ")]
    for command, begun, ended in zip(commands, [start, *ends], ends, strict=False):
        yield command.partition(" #")[0].rstrip(), ended - begun
    start = time.time()
    assert "<html" in httpx2.get(f"{url}/").raise_for_status().text
    yield url, time.time() - start


def bare() -> dict[str, str]:
    """The environment of somebody who has just logged in, and how this machine reaches packages."""
    kept = {name: value for name, value in os.environ.items() if re.match(r"HOME$|PIP_|.*_proxy$|SSL_", name)}
    return {**kept, "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}


if __name__ == "__main__":
    sys.exit(main())
