"""Adoption killed with SIGKILL: before every single change it makes on disk, and at moments by chance."""

import os
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from export.adopt import adopt
from export.catalog import BundleRecipe
from service.runtime.bundle import open_bundle

# Adopts again and again from the same beginning; kills each attempt one change of the file system later than the last,
# until one comes to its end; then some more at moments by chance. Forked, so that the imports are paid for once.
KILL_ADOPT_AT_EVERY_STEP = """
import os, pickle, random, shutil, signal, sys, time
from export.adopt import adopt

recipe, files, beginning, home = pickle.load(sys.stdin.buffer)
CHANGES = {"os.mkdir", "os.rename", "os.symlink", "os.remove", "os.rmdir", "os.utime", "os.truncate"}
steps_left = None

def count(event, args):
    global steps_left
    if steps_left is not None and (event in CHANGES or event == "open" and set("wxa+") & set(args[1] or "r")):
        if steps_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        steps_left -= 1

def attempt(data, steps, seconds):
    global steps_left
    shutil.copytree(beginning, data, symlinks=True)
    if (child := os.fork()) == 0:
        try:
            steps_left = steps
            adopt(recipe, *files, data)
            os._exit(0)
        finally:
            os._exit(1)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

sys.addaudithook(count)
step, began = 0, time.monotonic()
while (ended := attempt(home / f"step {step}", step, None)) == -signal.SIGKILL:
    step, began = step + 1, time.monotonic()
assert ended == 0, f"the attempt that was not killed ended with {ended}"
whole = time.monotonic() - began
for seconds in (random.uniform(0, whole) for _ in range(3)):
    attempt(home / f"after {seconds:.4f} s", None, seconds)
"""


@pytest.mark.parametrize("beginning", ["nothing", "an older bundle"])
def test_killed_at_any_moment_it_leaves_a_sound_bundle_or_none(
    tmp_path: Path,
    tiny_recipe: BundleRecipe,
    tiny_bundle: Path,
    tiny_embedder: Path,
    published: tuple[Path, Path],
    beginning: str,
) -> None:
    newer, files = replace(tiny_recipe, version="2"), (published[0], tiny_embedder)
    before, home = tmp_path / "before", tmp_path / "home"
    before.mkdir()
    home.mkdir()
    if beginning != "nothing":
        shutil.copytree(tiny_bundle.parent, before / "bundles", symlinks=True)
    subprocess.run(
        [sys.executable, "-c", KILL_ADOPT_AT_EVERY_STEP],
        input=pickle.dumps((newer, files, before, home)),
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        check=True,
    )
    found: dict[str, str | None] = {}
    left: dict[tuple[str, ...], Path] = {}  # one example of everything that a killed process leaves
    for data in sorted(home.iterdir()):
        link = data / "bundles" / "tiny"
        found[data.name] = open_bundle(link).card.version if link.is_symlink() else None
        left[tuple(sorted(re.sub(r"\W.*", "", path.name.lstrip(".")) for path in link.parent.glob("*")))] = data
    assert len(found) >= 12, "fewer steps than adoption has"
    assert set(found.values()) == {"2", None if beginning == "nothing" else "1"}

    assert len(left) >= 4
    for data in left.values():
        assert open_bundle(adopt(newer, *files, data)).card.version == "2", data.name
        assert open_bundle(data / "bundles" / "tiny").card.version == "2", data.name
