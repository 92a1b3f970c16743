"""The ``likeness`` command: its arguments, its exit codes. Each sub-command's work is in a module of its own.

Exit codes: 0 done (for ``verify`` a match, for ``search`` somebody identified), 1 no match or nobody, 2 wrong use,
3 unusable input (for ``enrol``: no photo at all could be), 4 the service or a bundle is not available.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from service import __version__
from service.cli import system
from service.errors import InvalidRequest, LikenessError, Unavailable

EXIT_DONE, EXIT_NO_MATCH, EXIT_WRONG_USE, EXIT_UNUSABLE, EXIT_UNAVAILABLE = range(5)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if system.asked_for(given):
        return system.run(given)
    try:
        commands = parser()
    except ImportError as error:
        print(f"likeness: {error}. `likeness doctor --system` says what is wrong with this install.", file=sys.stderr)
        return EXIT_UNAVAILABLE
    args = commands.parse_args(given)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    # It tells of every request.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        code: int = args.run(args)
    except LikenessError as error:
        return _report(error, args.json)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has had enough; nothing more can be said on it.
        sys.stderr.close()
        return EXIT_DONE
    return code


def parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    # Not at the top: they need every package, and the one that says which is missing must be reached without.
    from service.cli import (
        adopt,
        audit,
        backup,
        bench,
        calibrate,
        client,
        doctor,
        enrol,
        evaluate,
        galleries,
        keys,
        migrate_model,
        photos,
        pull,
        quantize,
        serve,
        tune,
    )

    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    remote = argparse.ArgumentParser(add_help=False, parents=[output])
    client.add_arguments(remote)
    common = argparse.ArgumentParser(add_help=False, parents=[output])
    common.add_argument("--data-dir", type=Path, help="where bundles live (default: data)")
    local = argparse.ArgumentParser(add_help=False, parents=[common])
    local.add_argument("--bundle", help="name or folder of the bundle (default: open)")
    providers = ["auto", "cpu", "cuda", "tensorrt"]
    local.add_argument("--provider", choices=providers, help="where networks run (default: auto)")
    local.add_argument("--threads", type=int, help="threads per network on the CPU; 0: one per core (default: 1)")

    top = argparse.ArgumentParser(prog="likeness", description="Face verification: do two photos show one person?")
    top.add_argument("--version", action="version", version=f"likeness {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    pull.add_command(commands, common)
    adopt.add_command(commands, common)
    quantize.add_command(commands, common)
    serve.add_command(commands, local)
    tune.add_command(commands, local)
    photos.add_commands(commands, local)
    evaluate.add_command(commands, local)
    calibrate.add_command(commands, local)
    enrol.add_command(commands, remote)
    galleries.add_commands(commands, remote)
    migrate_model.add_command(commands, remote)
    keys.add_command(commands, common)
    audit.add_command(commands, common)
    backup.add_commands(commands, common)
    bench.add_command(commands, remote)
    doctor.add_command(commands, remote)
    return top


def _report(error: LikenessError, as_json: bool) -> int:
    if as_json:
        from service.api.errors import status_and_code

        code = status_and_code(error)[1]
        print(json.dumps({"error": {"code": code, "message": error.message, "details": error.details}}))
    print(f"likeness: {error.message}", file=sys.stderr)
    if isinstance(error, Unavailable):
        return EXIT_UNAVAILABLE
    return EXIT_WRONG_USE if isinstance(error, InvalidRequest) else EXIT_UNUSABLE


if __name__ == "__main__":
    sys.exit(main())
