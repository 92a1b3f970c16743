"""What a container does at its start, without the container: ``make image-test`` has the whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service import __version__
from service.cli.main import EXIT_WRONG_USE

ENTRY = Path(__file__).resolve().parents[2] / "deploy" / "entry.sh"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A folder with the ``likeness`` of this environment."""
    folder = tmp_path / "bin"
    folder.mkdir()
    likeness = folder / "likeness"
    likeness.write_text(f'#!/bin/sh\nexec {sys.executable} -m service.cli.main "$@"\n')
    likeness.chmod(0o755)
    return folder


def enter(program: Path, data: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LIKENESS_")}
    environment = {**clean, "PATH": f"{program}:{clean['PATH']}", "LIKENESS_DATA_DIR": str(data), **settings}
    command = ["sh", str(ENTRY), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_commands_other_than_serve_are_run_as_they_are(program: Path, tmp_path: Path) -> None:
    told = enter(program, tmp_path / "none", "--version", LIKENESS_BUNDLE="nosuch")
    assert (told.returncode, told.stdout) == (0, f"likeness {__version__}\n")


def test_a_bundle_that_is_not_there_is_pulled_and_its_licence_asked_for(program: Path, tmp_path: Path) -> None:
    asked = enter(program, tmp_path / "none", LIKENESS_BUNDLE="buffalo_s", LIKENESS_ACCEPT_LICENSE="MIT")
    assert asked.returncode == EXIT_WRONG_USE
    assert "buffalo_s are not free for commercial use" in asked.stderr
    assert "Uvicorn" not in asked.stderr


@pytest.mark.parametrize("bundle", ["open", "folder"])
def test_a_bundle_that_is_there_is_served_as_it_is(program: Path, data_dir: Path, bundle: str) -> None:
    # A wrong flag, so that the service ends where it would begin.
    name = "open" if bundle == "open" else str(data_dir / "bundles" / "open")
    ended = enter(program, data_dir, "serve", "--port", "70000", LIKENESS_BUNDLE=name)
    assert ended.returncode == EXIT_WRONG_USE
    assert "Setting 'port'" in ended.stderr
    assert "already there" not in ended.stdout


def test_a_password_in_a_file_is_given_to_the_database_without_its_line_end(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("p w'$d\n")
    likeness = tmp_path / "likeness"
    likeness.write_text('#!/bin/sh\nprintf "%s|%s" "$PGPASSWORD" "$*"\n')
    likeness.chmod(0o755)
    told = enter(tmp_path, tmp_path, "keys", "list", LIKENESS_DATABASE_PASSWORD_FILE=str(tmp_path / "password"))
    assert told.stdout == "p w'$d|keys list"
    missing = enter(tmp_path, tmp_path, "keys", "list", LIKENESS_DATABASE_PASSWORD_FILE=str(tmp_path / "none"))
    assert missing.returncode != 0
    assert "none" in missing.stderr
