"""The HNSW index of a large gallery: when there is one, how it is built beside the traffic, and how it is asked.

An index belongs to one partition, and so to one gallery: PostgreSQL cannot build an index concurrently on a partitioned
table as a whole, but it can on each partition. Until it is there, searches compare all rows.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, text

from service.gallery.records import GalleryRecord
from service.postgres.vector_tables import partition_name

log = logging.getLogger(__name__)

# pgvector's limit for an index on halfvec.
LARGEST_DIMENSION = 4000
# What a node's links take while the graph is built, each.
LINK_BYTES = 40
LOCK_SPACE = 0x484E5357


@dataclass(frozen=True)
class Hnsw:
    """What indexes are wanted.

    Attributes:
        from_persons: galleries with so many persons have one; 0: none has, and every answer is exact.
        links, building: how densely the graph is knit: links of a node, and how many nodes are looked at to find them.
        candidates: how many nodes a search looks at, at most 1000.
        build_memory_mib: most that building one may take in PostgreSQL; beyond that it gets much slower.
    """

    from_persons: int = 0
    links: int = 32
    building: int = 200
    candidates: int = 1000
    build_memory_mib: int = 2048

    def serves(self, connection: Connection, gallery: GalleryRecord) -> bool:
        """Whether the gallery has an index that can be asked."""
        return self._wants(gallery) and bool(connection.scalar(_VALID, {"name": index_name(gallery)}))

    def prepare(self, connection: Connection) -> None:
        """For the rest of a transaction: look at enough candidates, and go on where a filter drops most."""
        connection.execute(_PREPARE, {"candidates": str(self.candidates)})

    def due(self, engine: Engine, galleries: Iterable[GalleryRecord]) -> list[GalleryRecord]:
        """Those that lack an index, or have one that they are too small for."""
        with engine.connect() as connection:
            there = {row[0]: row[1] for row in connection.execute(_ALL)}
        return [
            gallery
            for gallery in galleries
            if there.get(index_name(gallery), False) != self._wants(gallery) or there.get(index_name(gallery)) is False
        ]

    def tend(self, engine: Engine, gallery: GalleryRecord) -> bool:
        """Build the gallery's index if it is to have one, drop it if not; whether anything was done.

        Takes minutes for a large gallery, which is searched and changed meanwhile. One replica at a time does it.
        """
        name = index_name(gallery)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            # Its settings and its lock end with it, and are not the pool's.
            connection.detach()
            if not connection.scalar(_TRY_LOCK, {"space": LOCK_SPACE, "key": gallery.key % (1 << 31)}):
                return False
            there, valid = connection.scalar(_THERE, {"name": name}), connection.scalar(_VALID, {"name": name})
            if self._wants(gallery) and not valid:
                self._build(connection, gallery, bool(there))
                return True
            # Half as many before it goes: who has about so many persons must not build it again and again.
            if there and (not self.from_persons or gallery.persons < self.from_persons // 2):
                connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {name}"))
                return True
            return False

    def _wants(self, gallery: GalleryRecord) -> bool:
        return 0 < self.from_persons <= gallery.persons and gallery.dimension <= LARGEST_DIMENSION

    def _build(self, connection: Connection, gallery: GalleryRecord, left_over: bool) -> None:
        name, partition = index_name(gallery), partition_name(gallery.dimension, gallery.key)
        if left_over:
            # From a build that was cut off.
            connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {name}"))
        need = 2 * gallery.persons * (2 * gallery.dimension + LINK_BYTES * self.links) >> 20
        connection.execute(_BUILDING, {"memory": f"{max(64, min(self.build_memory_mib, need))}MB"})
        options = f"m = {self.links}, ef_construction = {self.building}"
        on = f"{partition} USING hnsw (vector halfvec_ip_ops) WITH ({options})"
        log.info("Building the index of gallery %s with %d persons.", gallery.id, gallery.persons)
        connection.execute(text(f"CREATE INDEX CONCURRENTLY {name} ON {on}"))
        log.info("The index of gallery %s is built.", gallery.id)


def index_name(gallery: GalleryRecord) -> str:
    """Of its gallery's partition."""
    return f"{partition_name(gallery.dimension, gallery.key)}_hnsw"


_THERE = text("SELECT to_regclass(:name) IS NOT NULL")
_VALID = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
_PREPARE = text(
    "SELECT set_config('hnsw.ef_search', :candidates, true), set_config('hnsw.iterative_scan', 'relaxed_order', true)"
)
_ALL = text(
    "SELECT c.relname, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
    "JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'hnsw'"
)
# Lost with its connection, should the replica be killed.
_TRY_LOCK = text("SELECT pg_try_advisory_lock(:space, :key)")
_BUILDING = text("SELECT set_config('maintenance_work_mem', :memory, false), set_config('lock_timeout', '0', false)")
