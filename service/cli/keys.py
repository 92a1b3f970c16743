"""``likeness keys``: the master key of a data folder."""

import argparse
import json
import os
from typing import Any

from service.cli.options import settings_of
from service.security.key_file import KeyFile
from service.security.master_key import FilePlace, MasterKey, MasterKeyError

NEW_KEY = "LIKENESS_NEW_MASTER_KEY"


def add_command(commands: Any, common: argparse.ArgumentParser) -> None:
    """Register the sub-commands."""
    keys = commands.add_parser("keys", help="the keys of a data folder")
    actions = keys.add_subparsers(required=True, metavar="ACTION")
    rotate = actions.add_parser(
        "rotate-master", parents=[common], help="wrap the keys of all persons under a new master key"
    )
    rotate.set_defaults(run=run_rotate)


def run_rotate(args: argparse.Namespace) -> int:
    """Rotate the master key of a data folder that no service has open."""
    settings = settings_of(args)
    place = settings.master_place()
    if isinstance(place, FilePlace):
        master = MasterKey.new()
    elif os.environ.get(NEW_KEY):
        master = MasterKey.parse(os.environ[NEW_KEY], NEW_KEY)
    else:
        raise MasterKeyError(f"The master key is in {place.where}. Set the new one as {NEW_KEY}, and run this again.")
    # A folder that has no keys yet is not given any.
    place.read(may_make=False)
    keys = KeyFile.open(settings.keys_folder(), place)
    try:
        count = keys.rotate(place, master)
    finally:
        keys.close()
    told = {"persons": count, "master_key": master.name, "where": place.where}
    words = f"The keys of {count} persons are wrapped under the master key {master.name}, in {place.where}."
    if not isinstance(place, FilePlace):
        words += f" Give the service that key from now on: it is the one in {NEW_KEY}."
    print(json.dumps(told) if args.json else words)
    return 0
