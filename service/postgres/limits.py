"""The limits of access keys, counted in one place for all replicas.

A request of a key that has limits costs one statement, and one more where the number inside is limited. A row is all
that is known of a key's use, so its lock makes requests come one after the other. Places of requests that are inside
are leased: a replica that works extends its leases, and those of one that was killed lapse after ``LEASE_S``. The
table is unlogged: a crash of PostgreSQL forgets the counts, as a restart of a service on its own does, and the places
come back with the next extension. All times are PostgreSQL's.
"""

import logging
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
import anyio.to_thread
from sqlalchemy import Engine, text

from service.errors import LikenessError
from service.postgres.failures import DatabaseAway, storage_errors
from service.postgres.repeating import Repeating
from service.security.access_keys import AccessKey
from service.security.key_limits import too_many, too_often

log = logging.getLogger(__name__)
T = TypeVar("T")

LEASE_S, EXTEND_S = 15.0, 5.0
# So long a request waits for PostgreSQL to count it.
PATIENCE_S = 3.0
# Statements at a time; each takes well under a millisecond.
THREADS = 8

# ``tokens`` is what was left at ``at``; ``places`` has the end of each lease, in seconds since 1970.
_ADMIT = text("""
WITH asked AS (
    SELECT CAST(:rate AS double precision) AS rate, CAST(:concurrency AS integer) AS concurrency,
           CAST(:place AS text) AS place, CAST(:lease AS double precision) AS lease
)
INSERT INTO key_uses AS uses (key_id, tokens, at, places)
SELECT :key, coalesce(rate - 1, 0), clock_timestamp(),
       CASE WHEN place IS NULL THEN '{}'
            ELSE jsonb_build_object(place, extract(epoch FROM clock_timestamp()) + lease) END
FROM asked
ON CONFLICT (key_id) DO UPDATE SET (tokens, at, places, refused) = (
    SELECT CASE WHEN judged.refused IS NULL AND rate IS NOT NULL THEN left_over - 1 ELSE left_over END,
           now,
           CASE WHEN judged.refused IS NULL AND place IS NOT NULL
                THEN live || jsonb_build_object(place, extract(epoch FROM now) + lease) ELSE live END,
           judged.refused
    FROM (
        SELECT asked.*, now, left_over, live,
               CASE WHEN inside >= concurrency THEN 'inside'
                    WHEN left_over < 1 AND rate IS NOT NULL THEN 'tokens' END AS refused
        FROM asked
        CROSS JOIN (SELECT clock_timestamp() AS now) AS clock
        CROSS JOIN LATERAL (
            SELECT coalesce(
                least(rate, uses.tokens + greatest(0, extract(epoch FROM now - uses.at)) * rate / 60), uses.tokens
            ) AS left_over
        ) AS bucket
        CROSS JOIN LATERAL (
            SELECT coalesce(jsonb_object_agg(key, value), '{}') AS live, count(*) AS inside
            FROM jsonb_each(uses.places) WHERE CAST(value AS double precision) > extract(epoch FROM now)
        ) AS leases
    ) AS judged
)
RETURNING refused, tokens
""")
_LEAVE = text("UPDATE key_uses SET places = places - CAST(:places AS text[]) WHERE key_id = :key")
_EXTEND = text("""
INSERT INTO key_uses AS uses (key_id, tokens, at, places)
SELECT :key, 0, clock_timestamp(),
       jsonb_object_agg(place, extract(epoch FROM clock_timestamp()) + CAST(:lease AS double precision))
FROM unnest(CAST(:places AS text[])) AS place
ON CONFLICT (key_id) DO UPDATE SET places = uses.places || excluded.places
""")


class PostgresLimits:
    """See ``service.security.key_limits.KeyLimits``. For one event loop."""

    def __init__(self, engine: Engine) -> None:
        """Count on ``engine``, which is the caller's."""
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._held: dict[str, str] = {}
        self._holding = threading.Lock()
        # Belongs to the event loop that first runs it.
        self._threads: anyio.CapacityLimiter | None = None
        self._extending = Repeating(self._extend, EXTEND_S, "places of keys")

    def close(self) -> None:
        """No longer extend leases."""
        self._extending.close()

    @asynccontextmanager
    async def admitted(self, key: AccessKey) -> AsyncIterator[None]:
        """Count a request until the end of the block. Raises RateLimited, DatabaseAway."""
        if key.rate_per_minute is None and key.concurrency is None:
            yield
            return
        place = None if key.concurrency is None else uuid.uuid4().hex
        refused, tokens = await self._soon(lambda: self._admit(key, place))
        if refused == "inside" and key.concurrency is not None:
            raise too_many(key.concurrency)
        if refused == "tokens" and key.rate_per_minute is not None:
            raise too_often(key.rate_per_minute, tokens)
        if place is None:
            yield
            return
        with self._holding:
            self._held[place] = key.id
        try:
            yield
        finally:
            with self._holding:
                del self._held[place]
            # Also for a caller who has left.
            with anyio.CancelScope(shield=True):
                await self._leave(key.id, place)

    def _admit(self, key: AccessKey, place: str | None) -> tuple[str | None, float]:
        values = {"key": key.id, "rate": key.rate_per_minute, "concurrency": key.concurrency, "place": place}
        with storage_errors(), self._engine.connect() as connection:
            refused, tokens = connection.execute(_ADMIT, {**values, "lease": LEASE_S}).one()
        return refused, tokens

    async def _leave(self, key: str, place: str) -> None:
        def leave() -> None:
            with storage_errors(), self._engine.connect() as connection:
                connection.execute(_LEAVE, {"key": key, "places": [place]})

        try:
            await self._soon(leave)
        except LikenessError as error:
            log.debug("The place of a request is free when its lease ends: %s", error.message)

    async def _soon(self, work: Callable[[], T]) -> T:
        """``work()`` in a thread; DatabaseAway if that takes longer than ``PATIENCE_S``."""
        if self._threads is None:
            self._threads = anyio.CapacityLimiter(THREADS)
        with anyio.move_on_after(PATIENCE_S):
            return await anyio.to_thread.run_sync(work, limiter=self._threads, abandon_on_cancel=True)
        raise DatabaseAway

    def _extend(self) -> None:
        """Extend the leases of what is inside now."""
        try:
            for key, places in self._inside().items():
                with storage_errors(), self._engine.connect() as connection:
                    connection.execute(_EXTEND, {"key": key, "places": places, "lease": LEASE_S})
                    # Those that were left meanwhile have just been put back.
                    gone = set(places) - set(self._inside().get(key, ()))
                    if gone:
                        connection.execute(_LEAVE, {"key": key, "places": list(gone)})
        except LikenessError as error:
            log.warning("The places of keys could not be extended: %s", error.message)
        except Exception:
            log.exception("The places of keys could not be extended.")

    def _inside(self) -> Mapping[str, list[str]]:
        """The places of this replica's requests, by key."""
        found: dict[str, list[str]] = {}
        with self._holding:
            for place, key in self._held.items():
                found.setdefault(key, []).append(place)
        return found
