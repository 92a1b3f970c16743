"""``likeness keys``: who may call a service, and its master key."""

import argparse
import json
import os
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from service.cli.options import settings_of
from service.cli.places import access_keys_of
from service.cli.stores import rotate_master
from service.errors import InvalidRequest
from service.gallery.store_values import checked_id, checked_text
from service.security.access_keys import SCOPES, AccessKey, Rights
from service.security.master_key import FilePlace, MasterKey, MasterKeyError

NEW_KEY = "LIKENESS_NEW_MASTER_KEY"


def add_command(commands: Any, common: argparse.ArgumentParser) -> None:
    """Register the sub-commands."""
    keys = commands.add_parser("keys", help="the keys of a service")
    actions = keys.add_subparsers(required=True, metavar="ACTION")
    create = actions.add_parser("create", parents=[common], help="make an access key; it is shown this once")
    create.add_argument("--name", help="whose it is, for you")
    create.add_argument("--scopes", default=",".join(SCOPES), help=f"of {', '.join(SCOPES)} (default: all)")
    create.add_argument("--gallery", action="append", metavar="GALLERY", help="only this one; may be given again")
    create.add_argument("--expires", type=_days, metavar="DAYS", help="for how long (default: until it is revoked)")
    create.add_argument("--rate", type=_count, metavar="N", help="requests a minute (default: no limit)")
    create.add_argument("--concurrency", type=_count, metavar="N", help="requests at a time (default: no limit)")
    create.add_argument("--if-none", action="store_true", help="do nothing if there is an access key already")
    create.set_defaults(run=run_create)
    listing = actions.add_parser("list", parents=[common], help="show the access keys; not the keys themselves")
    listing.set_defaults(run=run_list)
    revoke = actions.add_parser("revoke", parents=[common], help="make an access key worthless at once")
    revoke.add_argument("id", metavar="ID")
    revoke.set_defaults(run=run_revoke)
    anew = actions.add_parser("rotate", parents=[common], help="make a new key with the rights of an old one")
    anew.add_argument("id", metavar="ID")
    anew.add_argument("--overlap", type=float, default=24, metavar="HOURS", help="the old one goes on (default: 24)")
    anew.set_defaults(run=run_renew)
    rotate = actions.add_parser(
        "rotate-master", parents=[common], help="wrap the keys of all persons under a new master key"
    )
    rotate.set_defaults(run=run_rotate)


def run_create(args: argparse.Namespace) -> int:
    """Print a new key, and nothing else, on standard output."""
    scopes = {scope.strip() for scope in args.scopes.split(",")}
    if unknown := sorted(scopes - set(SCOPES)):
        raise InvalidRequest(f"{unknown[0]!r} is no scope. Use {', '.join(SCOPES)}.")
    galleries = None if args.gallery is None else frozenset(checked_id("gallery", id) for id in args.gallery)
    rights = Rights(
        frozenset(scope for scope in SCOPES if scope in scopes),
        checked_text("name", args.name),
        galleries,
        None if args.expires is None else datetime.now(UTC) + args.expires,
        args.rate,
        args.concurrency,
    )
    with access_keys_of(settings_of(args)) as access:
        made = access.create_first(rights) if args.if_none else access.create(rights)
    return 0 if made is None else _show(args, *made)


def run_list(args: argparse.Namespace) -> int:
    """One line a key."""
    with access_keys_of(settings_of(args)) as access:
        keys = access.all()
    if args.json:
        print(json.dumps({"keys": [key.shown() for key in keys]}))
        return 0
    for key in keys:
        where = "all galleries" if key.galleries is None else " ".join(sorted(key.galleries))
        ends = "" if key.expires_at is None else f", expires {key.expires_at:%Y-%m-%d %H:%M} UTC"
        print(f"{key.id}  {','.join(sorted(key.scopes))}  {where}{ends}{f'  ({key.name})' if key.name else ''}")
    return 0


def run_revoke(args: argparse.Namespace) -> int:
    """A running service refuses it from its next request on; replicas that share a database, within a second."""
    with access_keys_of(settings_of(args)) as access:
        access.revoke(args.id)
    print(json.dumps({"revoked": args.id}) if args.json else f"revoked {args.id}")
    return 0


def run_renew(args: argparse.Namespace) -> int:
    """Print the new key; the old one expires after the overlap."""
    if not 0 <= args.overlap <= 24 * 366:
        raise InvalidRequest(f"--overlap is 0 to {24 * 366} hours, not {args.overlap:g}.")
    with access_keys_of(settings_of(args)) as access:
        return _show(args, *access.rotate(args.id, timedelta(hours=args.overlap)))


def run_rotate(args: argparse.Namespace) -> int:
    """Rotate the master key of a data folder that no service has open, or of a database."""
    settings = settings_of(args)
    place = settings.master_place()
    if isinstance(place, FilePlace):
        master = MasterKey.new()
    elif os.environ.get(NEW_KEY):
        master = MasterKey.parse(os.environ[NEW_KEY], NEW_KEY)
    else:
        raise MasterKeyError(f"The master key is in {place.where}. Set the new one as {NEW_KEY}, and run this again.")
    count = rotate_master(settings, master)
    told = {"persons": count, "master_key": master.name, "where": place.where}
    words = f"The keys of {count} persons are wrapped under the master key {master.name}, in {place.where}."
    if not isinstance(place, FilePlace):
        words += f" Give the service that key from now on: it is the one in {NEW_KEY}."
    elif settings.database_url is not None:
        words += " Give all replicas that file, and start them again."
    print(json.dumps(told) if args.json else words)
    return 0


def _show(args: argparse.Namespace, record: AccessKey, key: str) -> int:
    if args.json:
        print(json.dumps({"key": key, **record.shown()}))
    else:
        print(
            "An access key, shown this once. Commands take it from LIKENESS_KEY, the page asks for it:", file=sys.stderr
        )
        print(key)
    return 0


def _days(text: str) -> timedelta:
    return timedelta(days=_count(text))


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 10**6:
        raise ValueError
    return number
