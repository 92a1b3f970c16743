"""Access keys: who may call the service, for what, where, until when and how often.

A key is ``lk_ID_SECRET``, 256 random bits behind an id that is no secret. Kept is only HMAC-SHA256 of it under a key
that comes of the service's secret: with that many bits a slow password hash would protect nothing, and cost
milliseconds a request. They stand in ``access.json`` beside the keys of the persons; a running service sees changes of
the file at its next request.
"""

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from service.errors import InvalidRequest, Unauthorized, Unavailable
from service.files import lock_file, make_private_folder, replace_file
from service.security.scopes import Scope

FILE_NAME = "access.json"
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


_FILE = TypeAdapter(list[AccessKey])


class AccessKeys:
    """The keys of one data folder. Thread-safe."""

    def __init__(self, folder: Path, pepper: bytes) -> None:
        """
        Args:
            pepper: what their digests are keyed with.
        """
        self.path = folder / FILE_NAME
        self._pepper = pepper
        self._seen: tuple[int, int, int] | None = None
        self._by_id: Mapping[str, AccessKey] = {}

    def all(self) -> list[AccessKey]:
        """Those that were not revoked, oldest first. Raises Unavailable if the file is damaged."""
        self._refresh()
        return list(self._by_id.values())

    def find(self, presented: str) -> AccessKey:
        """The key that was presented.

        Raises:
            Unauthorized: it is none of ours, or has expired.
        """
        self._refresh()
        shape = _SHAPE.fullmatch(presented)
        # The same work for an id that is not known, so that time does not tell.
        found = self._by_id.get(shape[1], _NOBODY) if shape else _NOBODY
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

    def revoke(self, id: str) -> None:
        """From now on the key opens nothing. Raises InvalidRequest: there is none."""
        with self._changing() as keys:
            del keys[_known(keys, id)]

    def rotate(self, id: str, overlap: timedelta) -> tuple[AccessKey, str]:
        """A new key with the rights of ``id``, which itself expires after ``overlap``. Raises InvalidRequest."""
        with self._changing() as keys:
            old = keys[_known(keys, id)]
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

    def _refresh(self) -> None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            self._seen, self._by_id = None, {}
            return
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen != self._seen:
            self._by_id = self._read()
            self._seen = seen

    def _read(self) -> dict[str, AccessKey]:
        try:
            return {key.id: key for key in _FILE.validate_json(self.path.read_bytes())}
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            # Its content is not shown: validation errors quote what they found.
            raise Unavailable(f"The access keys {self.path} cannot be read ({type(error).__name__}).") from None

    @contextmanager
    def _changing(self) -> Iterator[dict[str, AccessKey]]:
        """The keys, written back when the block has ended well; one process at a time."""
        make_private_folder(self.path.parent)
        with lock_file(self.path.with_name("access.lock")):
            keys = self._read()
            yield keys
            content = json.dumps(_FILE.dump_python(list(keys.values()), mode="json"), indent=1)
            replace_file(self.path, content.encode())


def _known(keys: Mapping[str, AccessKey], id: str) -> str:
    if id not in keys:
        raise InvalidRequest(f"There is no access key with the id {id!r}. `likeness keys list` shows them.")
    return id
