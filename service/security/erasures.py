"""What an audit log tells of deletions: whom to erase again after a restore of a copy that is older than they are."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from service.security.audit_log import Link

# A deletion is answered with a body where the caller asked for one. Of 499 the caller left before the answer: what a
# thread was at was done all the same.
_DONE = (200, 204, 499)


@dataclass(frozen=True)
class Erasure:
    """A deletion that was done: of a gallery, of a person in it, or of one face of that person."""

    at: datetime
    gallery: str
    person: str | None = None
    face: str | None = None


def erasures(links: Iterable[Link], since: datetime) -> Iterator[Erasure]:
    """Those that were done at ``since`` or later, in the order of the log.

    Args:
        links: of ``audit_file.read``, ``service.postgres.audit.read`` or ``audit_log.checked``.
        since: an aware time.
    """
    for link in links:
        # Most lines are of something else: they are not parsed.
        if b'"action":"delete_' not in link.line:
            continue
        told = json.loads(link.line)
        at = datetime.fromisoformat(told["at"])
        if told["action"].startswith("delete_") and told.get("status") in _DONE and at >= since:
            yield Erasure(at, told["gallery"], told.get("person"), told.get("face"))
