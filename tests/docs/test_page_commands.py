"""Every command in the documentation is run, or says why it is not; and those too name what is there."""

import argparse
import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from likeness import Client
from service.cli.main import parser
from tests.conftest import ROOT, Running
from tests.docs.blocks import PAGES, Block, assert_first_steps, blocks_of, inline_of
from tests.served import serving

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUN_PAGES = sorted({block.page for block in BLOCKS if block.is_run})
# Every option of a command that is not meant to be typed as it stands.
PLACEHOLDER = re.compile(r"\b[A-Z][A-Z_]*\b|…|\[|\{")


@pytest.fixture
def folder(
    data_dir: Path,
    tmp_path: Path,
    portrait: bytes,
    portrait_again: bytes,
    group_photo: bytes,
    group_portraits: list[bytes],
) -> Path:
    """A working folder with all files that the documentation names, and commands as ``make setup`` leaves them."""
    names = ("a", "ann1", "visitor", "photo", "photos/ann/1", "my_db/ann/1", "images/ann/1")
    photos = {f"{name}.jpg": portrait for name in names}
    photos |= {f"{name}.jpg": portrait_again for name in ("b", "ann2", "photos/ann/2")}
    photos |= {"photos/bob/1.jpg": group_portraits[0], "photos/c.jpg": portrait, "photos/d.jpg": portrait_again}
    for name, content in {**photos, "group.jpg": group_photo}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "people.csv").write_text("person,image\nann,ann/1.jpg\n")
    frame = cv2.imdecode(np.frombuffer(group_photo, np.uint8), cv2.IMREAD_COLOR)
    writer = cv2.VideoWriter(str(tmp_path / "visit.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, frame.shape[1::-1])
    writer.write(frame)
    writer.release()
    (tmp_path / "data" / "bundles").mkdir(parents=True)
    for bundle in ("open", "mine"):
        (tmp_path / "data" / "bundles" / bundle).symlink_to(data_dir / "bundles" / "open")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, command in {
        "likeness": f"{sys.executable} -m service.cli.main",
        "python": sys.executable,
        # What the service refuses is a failure of the command.
        "curl": f"{shutil.which('curl')} --fail-with-body --no-progress-meter",
    }.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (programs / name).chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("page", RUN_PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_work_one_after_the_other(
    page: Path, folder: Path, running: Running, data_dir: Path
) -> None:
    script = ["set -eu", "shopt -s expand_aliases"]
    for block in BLOCKS:
        if block.page != page or not block.is_run:
            continue
        script.append(f"echo '== {block}' >&2")
        text = block.text if block.language == "python" else "\n".join(block.commands)
        code = "\n".join([*([block.told] if block.mark == "run after" else []), text])
        # Where the service is in these tests, and the other one of a move.
        code = re.sub(r"http://(127\.0\.0\.1|other):8000", running.url, code).replace("lk_…", running.key)
        if block.language == "python":
            (folder / f"block{block.line}.py").write_text(code)
            code = f"python block{block.line}.py"
        script.append(code)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("LIKENESS_")},
        "PATH": f"{folder / '.venv' / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RUNNING": str(running.folder),
        "LIKENESS_URL": running.url,
        "LIKENESS_KEY": running.key,
        "LIKENESS_API_KEY": running.key,
    }
    command = ["bash", "-c", "\n".join(script)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd=folder, check=False)
    assert run.returncode == 0, f"{run.stderr}\n{run.stdout[-3000:]}"
    if page.name == "README.md":
        assert_first_steps(run.stdout)
    if page.name == "operations.md":
        assert_restored(folder / "restored", running, data_dir)


def assert_restored(restored: Path, running: Running, data_dir: Path) -> None:
    """A service on the folder has what the one that runs has, and takes its access key."""
    with (
        serving(data_dir, restored, auth=True) as server,
        Client(server.url, running.key) as there,
        Client(running.url, running.key) as here,
    ):
        galleries = list(here.galleries())
        assert list(there.galleries()) == galleries
        for gallery in galleries:
            assert list(there.export(gallery.id)) == list(here.export(gallery.id))


def test_what_is_not_run_says_why() -> None:
    for block in BLOCKS:
        assert not block.mark or block.is_code, f"{block} is marked and is no code"
        assert block.language or not re.match(r"(\$ |make |likeness |curl |\.venv/)", block.text), (
            f"{block} is a command: name its language"
        )
    run = [block for block in BLOCKS if block.is_run]
    left = [block for block in BLOCKS if block.mark == "not run" and "tests/" not in block.told]
    assert len(run) > len(left), "more than half of the documentation's commands are run by nothing"


def commands() -> list[tuple[str, str]]:
    """Where it stands, and a command; whole ones, and those that prose mentions."""
    found = [(str(block), command) for block in BLOCKS for command in block.commands]
    found += [(page.name, code) for page in PAGES for code in inline_of(page)]
    return [(where, code) for where, code in found if re.match(r"(\.venv/bin/)?(likeness|python|make) ", code)]


@pytest.mark.parametrize(("where", "command"), commands(), ids=lambda value: value[:50])
def test_a_command_names_what_is_there(where: str, command: str) -> None:
    # A quote in prose, such as that of a possessive, opens no string.
    words = [word for word in command.partition(" #")[0].split() if word]
    program, arguments = words[0].rpartition("/")[2], words[1:]
    if program == "make":
        for target in (word for word in arguments if "=" not in word and not word.startswith("-")):
            assert target in make_targets(), f"{where}: there is no `make {target}`"
        for name in (word.partition("=")[0] for word in arguments if "=" in word):
            assert re.search(rf"^{name} \?=", (ROOT / "Makefile").read_text(), re.MULTILINE), f"{where}: {name}"
    elif program == "likeness":
        chosen = subcommand(arguments)
        assert chosen is not None, f"{where}: there is no `likeness {arguments[0]}`"
        check_flags(where, arguments, set(chosen._option_string_actions))
    elif arguments[0] == "-m" and arguments[1] not in ("pip", "venv"):
        module = arguments[1]
        assert importlib.util.find_spec(module), f"{where}: there is no module {module}"
        package = ROOT / module.partition(".")[0]
        sources = "\n".join(path.read_text() for path in package.rglob("*.py"))
        check_flags(where, arguments[2:], set(re.findall(r'"(--[a-z-]+)"', sources)))


def test_python_that_is_not_run_names_what_is_there() -> None:
    for block in BLOCKS:
        if block.language == "python":
            for node in ast.walk(ast.parse(block.text)):
                if isinstance(node, ast.ImportFrom) and node.module:
                    module = importlib.import_module(node.module)
                    assert all(hasattr(module, alias.name) for alias in node.names), str(block)


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_tests_that_are_named_are_there() -> None:
    names = {path.name for path in (ROOT / "tests").rglob("*.py")}
    for page in PAGES:
        for code in inline_of(page):
            if re.fullmatch(r"tests/[a-z_/]+(\.py)?", code):
                assert (ROOT / code).exists(), f"{page.name}: {code}"
            elif re.fullmatch(r"test_[a-z_]+\.py", code):
                assert code in names, f"{page.name}: {code}"


def test_the_readme_leads_to_every_page() -> None:
    linked = set(re.findall(r"\]\(([^)#:\s]+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert {str(page.relative_to(ROOT)) for page in PAGES} - linked == {"README.md"}


def test_every_target_of_make_is_in_the_documentation() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert make_targets() - set(re.findall(r"\bmake ([a-z-]+)", text)) == set()


def check_flags(where: str, arguments: list[str], known: set[str]) -> None:
    for word in arguments:
        if word.startswith("--"):
            flag = word.partition("=")[0].rstrip(".,;:)")
            assert flag in known, f"{where}: {flag} is not known"


def subcommand(arguments: list[str]) -> argparse.ArgumentParser | None:
    """The parser of the innermost sub-command that is named."""
    found = parser()
    if arguments[0] == "--version":
        return found
    for word in arguments:
        choices = next(
            (action.choices for action in found._actions if isinstance(action, argparse._SubParsersAction)), None
        )
        if choices is None or word.startswith("-") or PLACEHOLDER.search(word):
            break
        if word not in choices:
            return None
        found = choices[word]
    return found


@cache
def make_targets() -> set[str]:
    """Every target that ``make`` knows."""
    text = (ROOT / "Makefile").read_text()
    return set(re.findall(r"^([a-z][a-z-]*):", text, re.MULTILINE))


def test_blocks_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Text `make one` and\n\n```sh\nlikeness \\\n  a\n\nb # c\n```\n"
        "\n<!-- not run: why -->\n```console\n$ d\ne\n```\n"
        "\n<!-- run after: x = 1 -->\n```python\nf\n```\n```\ng `h`\n```\n"
    )
    first, second, third, fourth = blocks_of(page)
    assert (first.commands, first.is_run) == (["likeness    a", "b # c"], True)
    assert (second.commands, second.is_run, second.told) == (["d"], False, "why")
    assert (third.is_run, third.mark, third.told) == (True, "run after", "x = 1")
    assert (fourth.is_code, fourth.is_run) == (False, False)
    assert list(inline_of(page)) == ["make one"]
    assert isinstance(first, Block)
