"""``likeness audit``: the audit log of a data folder."""

import argparse
import json
from typing import Any

from service.cli.options import settings_of
from service.security import audit_log
from service.security.envelope import derive
from service.security.key_file import read_secret


def add_command(commands: Any, common: argparse.ArgumentParser) -> None:
    """Register the sub-commands."""
    audit = commands.add_parser("audit", help="the audit log of a data folder")
    actions = audit.add_subparsers(required=True, metavar="ACTION")
    verify = actions.add_parser("verify", parents=[common], help="has a line been removed or changed?")
    verify.add_argument("--receipt", metavar="SEQ:MAC", help="a line that has to be in it, as an erasure is answered")
    verify.set_defaults(run=run_verify)


def run_verify(args: argparse.Namespace) -> int:
    """0 if every line is as it was written; also while the service runs."""
    settings = settings_of(args)
    secret = read_secret(settings.keys_folder(), settings.master_place())
    found = audit_log.verify(settings.audit_folder(), derive(secret, audit_log.PURPOSE), args.receipt)
    words = f"{found.lines} lines, all as they were written. The last: {found.head}"
    print(json.dumps({"lines": found.lines, "head": found.head}) if args.json else words)
    return 0
