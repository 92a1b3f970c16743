"""``likeness backup`` and ``likeness restore``: copies of a data folder, and the way back."""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

from service.backup import embedded
from service.backup.archive import Archive, Backup, iso, moment_of
from service.cli.options import settings_of
from service.errors import InvalidRequest
from service.security.master_key import MasterPlace, place_of
from service.settings import Settings


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Register the sub-commands."""
    backup = commands.add_parser("backup", parents=[common], help="copy a data folder, also while the service runs")
    backup.add_argument("archive", type=Path, metavar="ARCHIVE", help="folder of backups; made if missing")
    backup.add_argument(
        "--keys", type=Path, required=True, metavar="FOLDER", help="elsewhere: for the one copy of keys and audit log"
    )
    backup.add_argument("--keep", type=_count, metavar="N", help="delete all but the newest N backups (default: none)")
    backup.set_defaults(run=run_backup)
    restore = commands.add_parser("restore", parents=[common], help="make a new data folder from a backup")
    restore.add_argument("archive", type=Path, metavar="ARCHIVE", help="folder of backups")
    restore.add_argument("--keys", type=Path, metavar="FOLDER", help="the newest copy of the keys")
    restore.add_argument("--at", metavar="TIME", help="the newest backup of this time or before (default: the newest)")
    restore.add_argument("--master-key-file", type=Path, dest="master", metavar="FILE", help="the master key you kept")
    restore.add_argument("--list", action="store_true", dest="listing", help="only tell what backups there are")
    restore.set_defaults(run=run_restore)


def run_backup(args: argparse.Namespace) -> int:
    """Add a backup to an archive."""
    made = embedded.back_up(settings_of(args).data_dir, Archive(args.archive), args.keys, args.keep)
    words = f"{_words(made.backup)}, of which {_size(made.new)} were new, in {args.archive}; keys in {args.keys}."
    if made.pruned:
        words += f" {made.pruned} older backups were deleted."
    print(json.dumps(embedded.told(made)) if args.json else words)
    return 0


def run_restore(args: argparse.Namespace) -> int:
    """Make a data folder, or list what there is to make one of."""
    archive = Archive(args.archive)
    if args.listing:
        backups = archive.all()
        print(
            json.dumps({"backups": [backup.shown() for backup in backups]})
            if args.json
            else "\n".join(map(_words, backups))
        )
        return 0
    settings = settings_of(args)
    moment = None if args.at is None else moment_of(args.at)
    if args.keys is None:
        raise InvalidRequest("A restore needs the newest copy of the keys: name its folder with --keys.")
    source = embedded.KeySource(args.keys, partial(_place, settings), args.master)
    made = embedded.restore(archive, source, settings.data_dir, moment)
    words = f"Restored into {settings.data_dir}: {_words(made.backup)}."
    if made.erased_again:
        words += f" {made.erased_again} persons who were erased after it were erased again."
    print(json.dumps(embedded.told(made)) if args.json else words)
    return 0


def _place(settings: Settings, keys: Path) -> MasterPlace:
    given = settings.master_key.get_secret_value() if settings.master_key is not None else None
    return place_of(keys, given, settings.master_key_command)


def _words(backup: Backup) -> str:
    facts = backup.facts
    return (
        f"{iso(backup.at)}: {facts['galleries']} galleries, {facts['persons']} persons, {facts['faces']} faces, "
        f"{_size(backup.size)}"
    )


def _size(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number
