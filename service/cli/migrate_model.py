"""``likeness migrate-model``: move a gallery of a running service to another bundle, see how far it is, and end it."""

import argparse
import json
import time
from collections.abc import Iterator
from typing import Any

from likeness import migration_calls
from service.cli.client import Client, client_of
from service.errors import InvalidRequest
from service.gallery.store_values import checked_id
from service.progress import bar

PAUSE_S = 1.0
# Of the persons who are not in the new space, so many are printed.
MOST_PRINTED = 1000


def add_command(commands: Any, remote: argparse.ArgumentParser) -> None:
    """Register the sub-command."""
    command = commands.add_parser(
        "migrate-model", parents=[remote], help="move a gallery to another bundle while it is used"
    )
    command.add_argument("gallery", metavar="GALLERY")
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--to", metavar="BUNDLE", help="begin, or go on after a roll back, and watch until no face waits any more"
    )
    what.add_argument("--status", action="store_true", help="how far it is, and who is not in the new space")
    what.add_argument("--cut-over", action="store_true", help="pin the gallery to the new contract")
    what.add_argument("--roll-back", action="store_true", help="after a cut-over: pin it to the old one again")
    what.add_argument("--finish", action="store_true", help="after a cut-over: erase the old space, for good")
    what.add_argument("--abandon", action="store_true", help="without a cut-over: erase the new space")
    command.add_argument("--no-wait", action="store_true", help="with --to: do not watch; it goes on by itself")
    command.add_argument(
        "--leave-behind",
        action="store_true",
        help="with --finish and --abandon: also if persons are left without faces",
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do one step, then tell where the gallery is."""
    gallery = checked_id("gallery", args.gallery)
    if args.leave_behind and not (args.finish or args.abandon):
        raise InvalidRequest("--leave-behind goes with --finish or --abandon.")
    with client_of(args) as client:
        if args.to:
            client.answer(migration_calls.start_migration(gallery, args.to))
            if not args.no_wait:
                _watch(client, gallery, args.json)
        elif args.cut_over:
            client.answer(migration_calls.cut_over(gallery))
        elif args.roll_back:
            client.answer(migration_calls.roll_back(gallery))
        elif args.finish:
            client.answer(migration_calls.finish_migration(gallery, leave_behind=args.leave_behind))
        elif args.abandon:
            client.answer(migration_calls.abandon_migration(gallery, leave_behind=args.leave_behind))
        told = client.answer(migration_calls.get_migration(gallery))
        pending = [person for page in _pages(client, told) for person in page["persons"]]
    print(json.dumps({**told, "pending": pending}) if args.json else "\n".join(_in_words(told, pending)))
    return 0


def _watch(client: Client, gallery: str, silent: bool) -> None:
    """Until no face waits any more; an interruption stops the watching and nothing else."""
    told = client.answer(migration_calls.get_migration(gallery))
    with bar(told["progress"]["faces"], "embed", "face", silent=silent) as progress:
        while told["phase"] == "embedding":
            progress.total = told["progress"]["faces"]
            progress.update(told["progress"]["faces_embedded"] - progress.n)
            if not told["progress"]["faces_waiting"]:
                return
            time.sleep(PAUSE_S)
            told = client.answer(migration_calls.get_migration(gallery))


def _pages(client: Client, told: Any) -> Iterator[Any]:
    if told["phase"] != "none":
        yield from client.pages(migration_calls.list_pending(told["gallery"], limit=1000))


def _in_words(told: Any, pending: list[Any]) -> Iterator[str]:
    if told["phase"] == "none":
        yield f"{told['gallery']}: of one contract, {told['embedding_contract'][:16]}…; nothing is being moved"
        return
    source, target, done = told["source"], told["target"], told["progress"]
    pinned = _name(target if told["phase"] == "cut_over" else source)
    yield f"{told['gallery']}: from {_name(source)} to {_name(target)}, {told['phase']}; pinned to {pinned}"
    yield (
        f"{done['persons_moved']} of {done['persons']} persons and {done['faces_embedded']} of {done['faces']} faces "
        f"are in the new space, {done['faces_waiting']} faces wait"
    )
    if pending:
        yield f"{len(pending)} persons are not; they are found in the old space for as long as it is there:"
    for person in pending[:MOST_PRINTED]:
        hope = "waits" if person["faces_waiting"] else "to be enrolled again"
        yield f"  {person['person_id']}  {person['faces_embedded']} of {person['faces']} faces, {hope}"
    if len(pending) > MOST_PRINTED:
        yield f"  … and {len(pending) - MOST_PRINTED} more (--json prints all)"


def _name(space: Any) -> str:
    return str(space["bundle"] or f"contract {space['embedding_contract'][:16]}… (not loaded)")
