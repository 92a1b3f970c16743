"""``likeness audit``: the audit log of a data folder, or of a database."""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from service.cli.options import settings_of
from service.cli.places import Audit, audit_of
from service.errors import InvalidRequest
from service.security.audit_log import Link, Verified, checked, first, verified


def add_command(commands: Any, common: argparse.ArgumentParser) -> None:
    """Register the sub-commands."""
    audit = commands.add_parser("audit", help="the audit log of a data folder, or of a database")
    actions = audit.add_subparsers(required=True, metavar="ACTION")
    verify = actions.add_parser("verify", parents=[common], help="has a line been removed or changed?")
    verify.add_argument("--receipt", metavar="SEQ:MAC", help="a line that has to be in it, as an erasure is answered")
    verify.add_argument("--file", type=Path, help="look at this export instead, all of it from the first line on")
    verify.set_defaults(run=run_verify)
    export = actions.add_parser("export", parents=[common], help="print its lines as they are, checked")
    export.add_argument("--after", type=int, default=0, metavar="SEQ", help="only those that follow this one")
    export.set_defaults(run=run_export)


def run_verify(args: argparse.Namespace) -> int:
    """0 if every line is as it was written; also while the service runs."""
    with audit_of(settings_of(args)) as audit:
        found = audit.verify(args.receipt) if args.file is None else _of_file(args.file, audit, args.receipt)
    words = f"{found.lines} lines, all as they were written. The last: {found.head}"
    print(json.dumps({"lines": found.lines, "head": found.head}) if args.json else words)
    return 0


def run_export(args: argparse.Namespace) -> int:
    """One line a line of the log; nothing after a line that is not as it was written."""
    with audit_of(settings_of(args)) as audit, closing(audit.read()) as links:
        for link in links:
            if link.seq > args.after:
                sys.stdout.write(link.line.decode() + "\n")
    return 0


def _of_file(path: Path, audit: Audit, receipt: str | None) -> Verified:
    """An export has no head: what was taken from its end is not missed."""
    try:
        with path.open("rb") as stream:
            return verified(_links(stream, audit, path), first(audit.key), str(path), receipt)
    except OSError as error:
        raise InvalidRequest(f"The export {path} cannot be read: {error}") from error


def _links(stream: Iterator[bytes], audit: Audit, path: Path) -> Iterator[Link]:
    return checked((line.rstrip(b"\n") for line in stream), audit.key, str(path))
