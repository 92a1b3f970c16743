"""Access keys in a table that all replicas share.

A replica asks every ``LOOK_S`` whether they were changed, and answers from memory in between: a key that was revoked
is refused by every replica within ``OLDEST_S``. A replica that could not ask for so long knows of no key: it answers
503 until PostgreSQL is back. Each row has a mac, so that who may write to the database cannot give rights to a key.
"""

import hashlib
import hmac
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import anyio
from pydantic import ValidationError
from sqlalchemy import Connection, Engine, text

from service.postgres.failures import DatabaseAway, storage_errors
from service.postgres.repeating import Repeating
from service.security.access_keys import AccessKey, AccessKeys

log = logging.getLogger(__name__)

LOOK_S, OLDEST_S = 0.3, 1.0
# So long a request waits for a replica that has fallen behind.
PATIENCE_S = 2.0
_POLL_S = 0.02

_STAMP = text("SELECT stamp FROM access_keys_stamp")
_ROWS = text("SELECT id, record, mac FROM access_keys ORDER BY made")
# Held to the end of the transaction: changes are one after the other.
_CHANGE = text("UPDATE access_keys_stamp SET stamp = gen_random_uuid()")
_PUT = text(
    "INSERT INTO access_keys (id, record, mac) VALUES (:id, :record, :mac) "
    "ON CONFLICT (id) DO UPDATE SET record = excluded.record, mac = excluded.mac"
)
_DROP = text("DELETE FROM access_keys WHERE id = ANY(:ids)")
_FORGET = text("DELETE FROM key_uses WHERE key_id = ANY(:ids)")


class PostgresAccessKeys(AccessKeys):
    """See ``AccessKeys``. Asks the database each time, until ``follow``."""

    def __init__(self, engine: Engine, pepper: bytes) -> None:
        super().__init__(pepper)
        self._engine = engine
        self._reading = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        # One look at a time, so that an older one never replaces a newer.
        self._looking = threading.Lock()
        self._stamp: object = None
        self._by_id: Mapping[str, AccessKey] = {}
        self._looked_at = -float("inf")
        self._following: Repeating | None = None
        # That they cannot be read is in the log.
        self._told = False

    def follow(self) -> None:
        """From now on answer from memory, which is never older than ``OLDEST_S``. Raises Unavailable."""
        self._look()
        self._following = Repeating(self._look_again, LOOK_S, "access keys")

    async def in_step(self) -> None:
        """Wait until what is in memory is new enough. Raises DatabaseAway after ``PATIENCE_S``."""
        deadline = time.monotonic() + PATIENCE_S
        while self._too_old() and time.monotonic() < deadline:
            await anyio.sleep(_POLL_S)
        if self._too_old():
            raise DatabaseAway

    def close(self) -> None:
        """No longer follow; the engine is the caller's."""
        following, self._following = self._following, None
        if following is not None:
            following.close()

    def _too_old(self) -> bool:
        return self._following is not None and time.monotonic() - self._looked_at > OLDEST_S

    def _known(self) -> Mapping[str, AccessKey]:
        if self._following is None:
            self._look()
        elif self._too_old():
            raise DatabaseAway
        return self._by_id

    def _look_again(self) -> None:
        try:
            self._look()
        except Exception as error:
            if self._too_old() and not self._told:
                log.warning("The access keys cannot be read, so that nobody is let in.", exc_info=error)
                self._told = True
        else:
            if self._told:
                log.warning("The access keys can be read again.")
            self._told = False

    def _look(self) -> None:
        with self._looking, storage_errors(), self._reading.connect() as connection:
            # What is read is at least as new as this moment.
            at = time.monotonic()
            stamp = connection.scalar(_STAMP)
            if stamp != self._stamp:
                self._by_id = self._read(connection)
                self._stamp = stamp
            self._looked_at = at

    def _read(self, connection: Connection) -> dict[str, AccessKey]:
        found = {}
        for id, record, mac in connection.execute(_ROWS):
            try:
                if not hmac.compare_digest(bytes(mac), self._mac(id, record)):
                    raise ValueError
                found[id] = AccessKey.model_validate_json(record)
            except (ValueError, ValidationError):
                log.error("The access key %r in the database is not as it was written; it opens nothing.", id)
        return found

    def _mac(self, id: str, record: str) -> bytes:
        # Keys themselves, whose digests have the same pepper, begin otherwise.
        return hmac.digest(self._pepper, f"record {id} {record}".encode(), hashlib.sha256)

    @contextmanager
    def _changing(self) -> Iterator[dict[str, AccessKey]]:
        with storage_errors(), self._engine.connect() as connection, connection.begin():
            connection.execute(_CHANGE)
            before = self._read(connection)
            keys = dict(before)
            yield keys
            for id, key in keys.items():
                if before.get(id) != key:
                    record = key.model_dump_json()
                    connection.execute(_PUT, {"id": id, "record": record, "mac": self._mac(id, record)})
            gone = {"ids": [id for id in before if id not in keys]}
            if gone["ids"]:
                connection.execute(_DROP, gone)
                connection.execute(_FORGET, gone)
        if self._following is not None:
            self._look()
