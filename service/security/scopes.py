"""What an access key may do. A call needs one of the scopes that stand beside it; what is not listed is for nobody."""

from collections.abc import Mapping
from typing import Literal

Scope = Literal["verify", "search", "embed", "enrol", "admin", "monitor"]

ANY: frozenset[Scope] = frozenset({"verify", "search", "embed", "enrol", "admin"})
READ: frozenset[Scope] = frozenset({"search", "enrol"})

PUBLIC = frozenset({"live", "ready"})
"""Calls that need no key: they tell only whether the service runs."""

OF_ALL_GALLERIES = frozenset({"metrics"})
"""Calls that tell of the whole service: how many persons there are, and how alike. Not for keys of some galleries."""

NEEDED: Mapping[str, frozenset[Scope]] = {
    "info": ANY | {"monitor"},
    # For those who watch, and who are to do nothing else.
    "metrics": frozenset({"monitor", "admin"}),
    "detect": frozenset({"verify"}),
    "verify": frozenset({"verify"}),
    "compare": frozenset({"verify"}),
    # Templates leave the service by these two only.
    "embed": frozenset({"embed"}),
    "export_persons": frozenset({"embed"}),
    "list_galleries": ANY,
    "get_gallery": ANY,
    "put_gallery": frozenset({"admin"}),
    "delete_gallery": frozenset({"admin"}),
    # How alike everybody is to everybody.
    "report": frozenset({"admin"}),
    # To another bundle, and back.
    "start_migration": frozenset({"admin"}),
    "get_migration": frozenset({"admin", "monitor"}),
    "list_pending": frozenset({"admin"}),
    "cut_over": frozenset({"admin"}),
    "roll_back": frozenset({"admin"}),
    "finish_migration": frozenset({"admin"}),
    "abandon_migration": frozenset({"admin"}),
    "list_persons": READ,
    "get_person": READ,
    "put_person": frozenset({"enrol"}),
    "patch_person": frozenset({"enrol"}),
    "delete_person": frozenset({"enrol"}),
    "list_faces": READ,
    "enrol_faces": frozenset({"enrol"}),
    "delete_face": frozenset({"enrol"}),
    "import_persons": frozenset({"enrol"}),
    "verify_person": frozenset({"verify"}),
    "search": frozenset({"search"}),
}
"""By the name of the call's function."""
