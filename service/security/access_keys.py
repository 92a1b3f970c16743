"""Access keys: who may call the service, for what, where, until when and how often.

A key is ``lk_ID_SECRET``, 256 random bits behind an id that is no secret. Kept is only HMAC-SHA256 of it under a key
that comes of the service's secret: with that many bits a slow password hash would protect nothing, and cost
milliseconds a request. Where they are kept is another room's: ``access_key_file``, or ``service.postgres.access`` for
all replicas of a service.
"""

import hashlib
import hmac
import os
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict

from service.errors import InvalidRequest, Unauthorized
from service.security.scopes import Scope

PURPOSE = "access keys"
SCOPES: tuple[Scope, ...] = get_args(Scope)
_SHAPE = re.compile(r"lk_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")


class AccessKey(BaseModel):
    """What is known of a key; not the key.

    Attributes:
        digest: HMAC of the key, hex.
        galleries: the only ones that it is for; None: all.
        rate_per_minute, concurrency: limits of requests; None: none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    digest: str
    scopes: frozenset[Scope]
    created_at: datetime
    name: str | None = None
    galleries: frozenset[str] | None = None
    expires_at: datetime | None = None
    rate_per_minute: int | None = None
    concurrency: int | None = None

    def expired(self, at: datetime) -> bool:
        return self.expires_at is not None and at >= self.expires_at

    def shown(self) -> dict[str, Any]:
        """For people: all but the digest."""
        told = self.model_dump(mode="json", exclude={"digest"})
        told["scopes"] = sorted(self.scopes)
        told["galleries"] = None if self.galleries is None else sorted(self.galleries)
        return told


_NOBODY = AccessKey(id="", digest="0" * 64, scopes=frozenset(), created_at=datetime.min)


@dataclass(frozen=True)
class Rights:
    """What a new key may do; see ``AccessKey``."""

    scopes: frozenset[Scope]
    name: str | None = None
    galleries: frozenset[str] | None = None
    expires_at: datetime | None = None
    rate_per_minute: int | None = None
    concurrency: int | None = None


class AccessKeys(ABC):
    """The keys of one service; where they are kept, a sub-class knows. Thread-safe."""

    def __init__(self, pepper: bytes) -> None:
        """
        Args:
            pepper: what their digests are keyed with.
        """
        self._pepper = pepper

    @abstractmethod
    def _known(self) -> Mapping[str, AccessKey]:
        """Those that were not revoked, by id, oldest first. Raises Unavailable."""

    @abstractmethod
    def _changing(self) -> AbstractContextManager[dict[str, AccessKey]]:
        """All of them, written back when the block has ended well; nobody else changes them meanwhile."""

    @abstractmethod
    async def in_step(self) -> None:
        """Wait, where that is needed, until ``find`` knows of what was changed a second ago. Raises Unavailable."""

    @abstractmethod
    def close(self) -> None:
        """Leave what they are read from."""

    def all(self) -> list[AccessKey]:
        """Those that were not revoked, oldest first. Raises Unavailable if they cannot be read."""
        return list(self._known().values())

    def find(self, presented: str) -> AccessKey:
        """The key that was presented.

        Raises:
            Unauthorized: it is none of ours, or has expired.
        """
        known = self._known()
        shape = _SHAPE.fullmatch(presented)
        # The same work for an id that is not known, so that time does not tell.
        found = known.get(shape[1], _NOBODY) if shape else _NOBODY
        if not hmac.compare_digest(self._digest(presented), found.digest) or found is _NOBODY:
            raise Unauthorized("The access key is not known to this service.")
        if found.expired(datetime.now(UTC)):
            raise Unauthorized("The access key has expired. Ask for a new one.")
        return found

    def create(self, rights: Rights) -> tuple[AccessKey, str]:
        """Make a key; what is known of it, and the key itself, which cannot be had again."""
        with self._changing() as keys:
            record, key = self._made(rights)
            keys[record.id] = record
        return record, key

    def create_first(self, rights: Rights) -> tuple[AccessKey, str] | None:
        """Like ``create`` where there is no key yet, even if several ask at once; else None."""
        with self._changing() as keys:
            if keys:
                return None
            record, key = self._made(rights)
            keys[record.id] = record
        return record, key

    def revoke(self, id: str) -> None:
        """From now on the key opens nothing. Raises InvalidRequest: there is none."""
        with self._changing() as keys:
            del keys[_one_of(keys, id)]

    def rotate(self, id: str, overlap: timedelta) -> tuple[AccessKey, str]:
        """A new key with the rights of ``id``, which itself expires after ``overlap``. Raises InvalidRequest."""
        with self._changing() as keys:
            old = keys[_one_of(keys, id)]
            rights = Rights(**{name: getattr(old, name) for name in Rights.__dataclass_fields__})
            record, key = self._made(rights)
            keys[record.id] = record
            ends = datetime.now(UTC) + overlap
            if old.expires_at is None or ends < old.expires_at:
                keys[id] = old.model_copy(update={"expires_at": ends})
        return record, key

    def _made(self, rights: Rights) -> tuple[AccessKey, str]:
        if not rights.scopes:
            raise InvalidRequest(f"A key needs at least one scope of {', '.join(SCOPES)}.")
        id = os.urandom(6).hex()
        key = f"lk_{id}_{secrets.token_urlsafe(32)}"
        return AccessKey(id=id, digest=self._digest(key), created_at=datetime.now(UTC), **vars(rights)), key

    def _digest(self, key: str) -> str:
        return hmac.new(self._pepper, key.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def _one_of(keys: Mapping[str, AccessKey], id: str) -> str:
    if id not in keys:
        raise InvalidRequest(f"There is no access key with the id {id!r}. `likeness keys list` shows them.")
    return id
