"""Is there an access key with which anybody can call?"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from service.diagnosis.finding import Finding

if TYPE_CHECKING:
    from service.security.access_keys import AccessKey
    from service.settings import Settings


def access_keys(settings: "Settings", known: Sequence["AccessKey"]) -> Iterator[Finding]:
    """Of those that are known, wherever they are kept."""
    if not settings.auth:
        yield Finding("access keys", "ok", "not asked for (auth is false): on loopback only")
        return
    valid = [key for key in known if not key.expired(datetime.now(UTC))]
    if valid:
        yield Finding("access keys", "ok", f"{len(valid)} of {len(known)} can be used")
    else:
        found = f"all {len(known)} have expired" if known else "there is none, so nobody can call"
        yield Finding("access keys", "warn", found, "likeness keys create")
