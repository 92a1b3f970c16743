"""PostgreSQL's own programs, ``pg_dump`` and ``pg_restore``: found, run, and their complaints in words."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from psycopg.conninfo import make_conninfo

from service.errors import InvalidRequest, Unavailable


@dataclass(frozen=True)
class Tools:
    """Attributes:
    folder: where the programs are; None: on the PATH.
    parameters: of libpq, see ``service.postgres.address``.
    """

    folder: Path | None
    parameters: Mapping[str, str]

    def dump(self, to: Path, *what: str) -> None:
        """Write a dump in PostgreSQL's custom format to the new file ``to``."""
        # Sealed templates cannot be compressed.
        self._run("pg_dump", "--format=custom", "--compress=0", "--no-owner", "--no-privileges", *what, f"--file={to}")

    def restore(self, dump: Path, *what: str) -> None:
        """Run a dump, all of it or nothing."""
        once = ("--single-transaction", "--exit-on-error")
        self._run("pg_restore", "--no-owner", "--no-privileges", "--no-comments", *once, *what, str(dump))

    def _run(self, program: str, *arguments: str) -> None:
        found = shutil.which(program, path=None if self.folder is None else str(self.folder))
        if found is None:
            where = "on the PATH" if self.folder is None else f"in {self.folder}"
            raise InvalidRequest(
                f"{program} is not {where}. Install PostgreSQL's client programs of the server's version or newer, or "
                "name their folder with --postgres-programs."
            )
        shown = {name: value for name, value in self.parameters.items() if name != "password"}
        # Everybody on the machine can read the arguments of a process, and only its user the environment.
        secret = {"PGPASSWORD": self.parameters["password"]} if "password" in self.parameters else {}
        done = subprocess.run(
            [found, *arguments, f"--dbname={make_conninfo(**shown)}"],
            env={**os.environ, **secret},
            capture_output=True,
            text=True,
            check=False,
            umask=0o077,
        )
        if done.returncode:
            raise Unavailable(f"{program} failed: {done.stderr.strip():.2000}")
