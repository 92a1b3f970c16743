"""``likeness doctor --system``: what is wrong with this install.

Apart from the other commands, none of which can be loaded where a package is missing.
"""

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from service.diagnosis.system import diagnose

OPTION = "--system"
EXIT_SOUND, EXIT_FAULTS = 0, 1


def asked_for(arguments: Sequence[str]) -> bool:
    """Whether these are the command's arguments."""
    return arguments[:1] == ["doctor"] and OPTION in arguments


def run(arguments: Sequence[str]) -> int:
    """Print a line for each check; 1 if one failed."""
    args = vars(_parser().parse_args(arguments))
    as_json = args.pop("json")
    del args["system"], args["command"]
    # What the service would log on its way is found here, too, and would only come in between.
    logging.disable(logging.ERROR)
    try:
        findings = diagnose(args)
    finally:
        logging.disable(logging.NOTSET)
    failed = any(finding.state == "fail" for finding in findings)
    if as_json:
        print(json.dumps({"sound": not failed, "findings": [vars(finding) for finding in findings]}))
    else:
        for finding in findings:
            print(f"{finding.state:<5}{finding.check:<13}{finding.found}")
            if finding.advice:
                print(f"{'':<18}{finding.advice}")
    return EXIT_FAULTS if failed else EXIT_SOUND


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="likeness doctor --system",
        description="What is wrong with this install? A line a check: ok, warn or fail, what there is, what to do. "
        "Exit code 1 if one failed.",
    )
    parser.add_argument("command", choices=["doctor"], help=argparse.SUPPRESS)
    parser.add_argument(OPTION, action="store_true", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parser.add_argument("--data-dir", type=Path, help="where bundles live (default: data)")
    parser.add_argument("--bundle", help="name or folder of the bundle (default: open)")
    parser.add_argument("--provider", choices=["auto", "cpu", "cuda", "tensorrt"], help="where networks are to run")
    parser.add_argument("--threads", type=int, help="threads per network on the CPU")
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (default: 8000)")
    return parser
