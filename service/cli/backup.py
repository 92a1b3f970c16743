"""``likeness backup``, ``restore`` and ``erase-again``: copies of all that is kept, and the way back."""

import argparse
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from service.backup import embedded
from service.backup.archive import Archive, Backup, iso, moment_of
from service.backup.embedded import Restored
from service.backup.erase_again import erase_again
from service.cli.options import settings_of
from service.cli.stores import open_store
from service.errors import InvalidRequest
from service.security import audit_log
from service.security.erasures import erasures
from service.security.master_key import MasterPlace, place_of
from service.settings import Settings


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Register the sub-commands."""
    stored = argparse.ArgumentParser(add_help=False, parents=[common])
    stored.add_argument("archive", type=Path, metavar="ARCHIVE", help="folder of backups; made if missing")
    stored.add_argument("--keys", type=Path, metavar="FOLDER", help="elsewhere: for the one, newest copy of the keys")
    stored.add_argument(
        "--postgres-programs", type=Path, metavar="FOLDER", help="with pg_dump and pg_restore (default: on the PATH)"
    )
    backup = commands.add_parser("backup", parents=[stored], help="copy all that is kept, also while services run")
    backup.add_argument("--keep", type=_count, metavar="N", help="delete all but the newest N backups (default: none)")
    backup.set_defaults(run=run_backup)
    restore = commands.add_parser("restore", parents=[stored], help="fill a new data folder or an empty database")
    restore.add_argument("--at", metavar="TIME", help="the newest backup of this time or before (default: the newest)")
    restore.add_argument("--master-key-file", type=Path, dest="master", metavar="FILE", help="the master key you kept")
    restore.add_argument("--list", action="store_true", dest="listing", help="only tell what backups there are")
    restore.set_defaults(run=run_restore)
    again = commands.add_parser(
        "erase-again", parents=[common], help="after going back in time: do the deletions of an audit log again"
    )
    again.add_argument("log", type=Path, metavar="LOG", help="audit.log, or what `likeness audit export` printed")
    again.add_argument("--since", required=True, metavar="TIME", help="the time that was gone back to")
    again.set_defaults(run=run_erase_again)


def run_backup(args: argparse.Namespace) -> int:
    """Add a backup to an archive."""
    settings, archive = settings_of(args), Archive(args.archive)
    keys = _keys(args)
    if settings.database_url is None:
        made = embedded.back_up(settings.data_dir, archive, keys, args.keep)
    else:
        from service.backup import postgres

        place = postgres.Place(settings.database_url.get_secret_value(), args.postgres_programs)
        made = postgres.back_up(place, archive, keys, args.keep)
    words = f"{_words(made.backup)}, of which {_size(made.new)} were new, in {args.archive}; keys in {keys}."
    if made.pruned:
        words += f" {made.pruned} older backups were deleted."
    _print(args, embedded.told(made), words)
    return 0


def run_restore(args: argparse.Namespace) -> int:
    """Fill a data folder or a database, or list what there is to fill it with."""
    archive = Archive(args.archive)
    if args.listing:
        backups = archive.all()
        _print(args, {"backups": [backup.shown() for backup in backups]}, "\n".join(map(_words, backups)))
        return 0
    settings = settings_of(args)
    made = _restored(args, settings, archive)
    where = settings.data_dir if settings.database_url is None else "the database"
    words = f"Restored into {where}: {_words(made.backup)}."
    if made.erased_again:
        words += f" {made.erased_again} persons who were erased after it were erased again."
    _print(args, embedded.told(made), words)
    return 0


def run_erase_again(args: argparse.Namespace) -> int:
    """The service is stopped, or not started yet."""
    store = open_store(settings_of(args))
    try:
        links = audit_log.checked(_lines(args.log), store.keys.derived(audit_log.PURPOSE), str(args.log))
        # All of it is checked before anything is deleted.
        count = erase_again(store, list(erasures(links, moment_of(args.since))))
    finally:
        store.close()
    _print(args, {"erased": count}, f"{count} galleries, persons and faces were erased again.")
    return 0


def _restored(args: argparse.Namespace, settings: Settings, archive: Archive) -> Restored:
    moment = None if args.at is None else moment_of(args.at)
    if settings.database_url is None:
        source = embedded.KeySource(_keys(args), partial(_place, settings), args.master)
        return embedded.restore(archive, source, settings.data_dir, moment)
    from service.backup import postgres

    place = postgres.Place(settings.database_url.get_secret_value(), args.postgres_programs)
    if args.master is not None:
        raise InvalidRequest("With PostgreSQL the master key stays where the settings name it: leave the file out.")
    return postgres.restore(place, archive, _keys(args), moment, settings.master_place())


def _keys(args: argparse.Namespace) -> Path:
    if args.keys is None:
        raise InvalidRequest("Name the folder for the newest copy of the keys, apart from the archive: --keys FOLDER.")
    folder: Path = args.keys
    return folder


def _lines(path: Path) -> Iterator[bytes]:
    """Without the blank lines that hold room at the end, and without a line that was cut off."""
    try:
        with path.open("rb") as stream:
            for line in stream:
                if line == b"\n" or not line.endswith(b"\n"):
                    return
                yield line[:-1]
    except OSError as error:
        raise InvalidRequest(f"The audit log {path} cannot be read: {error}") from error


def _print(args: argparse.Namespace, told: dict[str, Any], words: str) -> None:
    print(json.dumps(told) if args.json else words)


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
