"""The folder that an evaluation's report goes into, and the plain forms of a report: JSON, lines for a terminal."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from service.errors import InvalidRequest


def prepare_folder(out: Path) -> None:
    """Make the folder for a report; worth calling before the hours of work that the report is about."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(f"the folder {out} for the report cannot be made: {error}") from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise InvalidRequest(f"the folder {out} for the report is not writable; give another one")


def write_files(out: Path, files: Mapping[str, bytes]) -> None:
    """Put files into the folder ``out``, made if it is not there; each appears whole or not at all, in this order."""
    prepare_folder(out)
    for name, content in files.items():
        _replace(out / name, content)


def as_json(value: Mapping[str, Any]) -> bytes:
    """Indented JSON; a NaN or an infinity in it is a ValueError."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def aligned(lines: Sequence[tuple[str, str]]) -> str:
    """Names and values in two columns, without a newline at the end."""
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
