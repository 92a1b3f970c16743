"""Calls about moving a gallery to another bundle; docs/migration.md explains them."""

from likeness.bodies import json_body
from likeness.gallery_calls import PAGE, erasing
from likeness.gallery_results import Erasure
from likeness.migration_results import Migration, PendingPerson
from likeness.operations import Call, Page, as_json, as_page, path_of


def get_migration(gallery: str) -> Call[Migration]:
    """How far it is; ``phase`` is ``none`` where the gallery is of one contract."""
    return Call("GET", _path(gallery), as_json(Migration))


def start_migration(gallery: str, bundle: str) -> Call[Migration]:
    """Begin to move the gallery to a bundle of the service's data folder; the same again goes on with it."""
    return Call("POST", _path(gallery), as_json(Migration), body=json_body({"bundle": bundle}))


def list_pending(gallery: str, *, limit: int = PAGE) -> Call[Page[PendingPerson]]:
    """Persons who are not in the new space yet. ``limit`` is how many a page has."""
    return Call("GET", _path(gallery, "pending"), as_page("persons", PendingPerson), {"limit": limit})


def cut_over(gallery: str) -> Call[Migration]:
    """Pin the gallery to the new contract. The old space is kept, for who is only there and for a way back."""
    return Call("POST", _path(gallery, "cut-over"), as_json(Migration))


def roll_back(gallery: str) -> Call[Migration]:
    """After a cut-over: pin the gallery to the old contract again."""
    return Call("POST", _path(gallery, "roll-back"), as_json(Migration))


def finish_migration(gallery: str, *, leave_behind: bool = False) -> Call[Migration]:
    """After a cut-over: erase the old space, for good. Refused while persons are only there, but for
    ``leave_behind``."""
    body = json_body({"leave_behind": leave_behind})
    # The second time there is nothing left to finish.
    return Call("POST", _path(gallery, "finish"), as_json(Migration), body=body)


def abandon_migration(gallery: str, *, leave_behind: bool = False) -> Call[Erasure]:
    """Before a cut-over, or after a roll back: erase the new space. Refused while persons are only there, but for
    ``leave_behind``."""
    call = erasing(_path(gallery))
    return Call(call.method, call.path, call.read, {"leave_behind": str(leave_behind).lower()}, headers=call.headers)


def _path(gallery: str, *more: str) -> str:
    return path_of("galleries", gallery, "migration", *more)
