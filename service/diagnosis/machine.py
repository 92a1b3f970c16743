"""The machine: its cores, its memory, its kernel, and the port."""

import ctypes
import http.client
import json
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from service.cores import available_cores, time_limit
from service.diagnosis.finding import Finding, State
from service.errors import LikenessError

if TYPE_CHECKING:
    from service.settings import Settings

GIB = 1 << 30
# The service with the default bundle and small galleries, and some uploads.
MEMORY_WANTED = 2 * GIB
_CGROUP = Path("/sys/fs/cgroup")
_LANDLOCK_CREATE_RULESET, _LANDLOCK_VERSION = 444, 1


def cores(settings: "Settings") -> Iterator[Finding]:
    """How many there are, and how many a container may use."""
    available, quota = available_cores(), time_limit()
    found = f"{available} of {os.cpu_count()} for this process, {settings.threads or available} threads a network"
    if quota is not None and quota != available:
        # As many photos as whole cores are worked on at once; the rest of the time is nobody's.
        advice = f"Give the container a whole number of cores, or its own (cpuset: 0-{available - 1})."
        yield Finding("cores", "warn", f"{found}, and a limit of {quota:g} cores' time", advice)
    else:
        yield Finding("cores", "ok", found)


def memory(settings: "Settings") -> Iterator[Finding]:  # noqa: ARG001
    """What is left, of the machine's and of a container's."""
    free = min(_available(), _limit())
    state: State = "ok" if free >= MEMORY_WANTED else "warn"
    advice = "" if state == "ok" else "2 GiB and more are wanted; docs/benchmarks.md has what large galleries need."
    yield Finding("memory", state, f"{free / GIB:.1f} GiB can be had", advice)


def tuning(settings: "Settings") -> Iterator[Finding]:
    """How the networks are run here."""
    from service.runtime.bundle import locate, open_bundle
    from service.runtime.tuning import plan_for

    threads = settings.threads if "threads" in settings.model_fields_set else None
    try:
        card = open_bundle(locate(settings.bundle, settings.data_dir)).card
        plan = plan_for(settings.data_dir, card, settings.provider, threads, settings.gpus[0])
    except LikenessError as error:
        yield Finding("tuning", "warn", f"not known: {error.message}")
        return
    yield Finding("tuning", "ok", str(plan), "" if plan.measured else "likeness tune measures it (a minute).")


def kernel(settings: "Settings") -> Iterator[Finding]:  # noqa: ARG001
    """What it closes to the processes that decode strangers' photos, and how many files may be open."""
    version = ctypes.CDLL(None).syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION)
    if version < 1:
        found = f"Linux {os.uname().release}, no Landlock: a decoder that was taken over could read files"
        yield Finding("kernel", "warn", found, "Linux 5.13 or newer with Landlock on; see SECURITY.md.")
    else:
        yield Finding("kernel", "ok", f"Linux {os.uname().release}, Landlock {version} closes files to the decoders")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most != resource.RLIM_INFINITY and most < 4096:
        found = f"{most} at most: so many connections and files"
        yield Finding("open files", "warn", found, "Raise the hard limit (ulimit -Hn).")


def port(settings: "Settings") -> Iterator[Finding]:
    """Free, or ours already."""
    where = f"{settings.host}, port {settings.port}"
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except OSError as error:
            if _answers(settings):
                yield Finding("port", "ok", f"{where}: a Likeness service answers there")
            else:
                advice = "Choose another with LIKENESS_PORT (--port), or stop what listens there."
                yield Finding("port", "fail", f"{where}: {error.strerror}", advice)
            return
    yield Finding("port", "ok", f"{where} is free")


def traces(settings: "Settings") -> Iterator[Finding]:  # noqa: ARG001
    """OpenTelemetry, where the environment asks for it."""
    from service import tracing

    try:
        if not tracing.wanted():
            return
        tracing.start()()
    except LikenessError as error:
        yield Finding("traces", "fail", error.message)
    else:
        yield Finding("traces", "ok", "are sent where the OTEL_ variables say")


def _answers(settings: "Settings") -> bool:
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    connection = http.client.HTTPConnection(host, settings.port, timeout=1)
    try:
        connection.request("GET", "/v1/health/live")
        return bool(json.loads(connection.getresponse().read()) == {"status": "live"})
    except (OSError, ValueError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _available() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _limit() -> int:
    try:
        most = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return 1 << 62
    return 1 << 62 if most == "max" else max(0, int(most) - used)
