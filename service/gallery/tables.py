"""The tables of the store, in SQLAlchemy Core.

Keys are the store's own numbers; AUTOINCREMENT sees to it that none is ever used again, so that an index or a
snapshot that still knows a deleted key can never take a later person for it. Ids are the callers'.

Templates stand apart from what is known about their faces, in one table for each dimension. SQLite's
``secure_delete`` overwrites a row where it lies, but not the stale copies that it leaves inside a page when it packs
rows of *different* sizes anew (measured with 3.40: 2 of 25,000 deleted templates could still be read in the
database file). In a table whose rows are all of one size, a row always fits the place of another and nothing is
repacked. The first face key is a second part of this, see ``FIRST_FACE_KEY``.

A template is sealed with its person's key (``service.security``), which is not in the database.
"""

from datetime import UTC, datetime
from functools import lru_cache

from sqlalchemy import (
    DDL,
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    event,
)

# SQLite writes a row's key in 1 to 9 bytes, 5 of them from 2**28 up to 2**35: within that all templates of one
# dimension are rows of exactly one size.
FIRST_FACE_KEY = 2**28 + 1


class UtcDateTime(TypeDecorator[datetime]):
    """Aware datetimes in UTC. SQLite keeps no time zone, so what comes from there is taken as UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# INTEGER is SQLite's name for 64 bits, and only under that name is a primary key the row's own number.
Key = BigInteger().with_variant(Integer, "sqlite")
# Pages are in byte order of the ids; SQLite compares bytes of itself.
Id = String(128).with_variant(String(128, collation="C"), "postgresql")
# Not JSONB on PostgreSQL: that gives large numbers and the order of fields back otherwise than they came.
Json = JSON()

metadata = MetaData()

# A gallery without an id is condemned: it is gone for every caller, and its rows are being deleted.
galleries = Table(
    "galleries",
    metadata,
    Column("key", Key, primary_key=True, autoincrement=True),
    Column("id", Id, unique=True),
    Column("name", Text),
    Column("description", Text),
    Column("embedding_contract", Text, nullable=False),
    Column("dimension", Integer, nullable=False),
    Column("revision", Key, nullable=False),
    # Counted along, because every search tells the size of the gallery and COUNT(*) reads all of it.
    Column("persons", Key, nullable=False),
    Column("faces", Key, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    # How long persons are kept; NULL: until they are deleted.
    Column("retention_days", Integer),
    # Which of the two tables of its dimension has its templates: see ``templates_table``.
    Column("template_slot", Integer, nullable=False, server_default="0"),
    sqlite_autoincrement=True,
)

persons = Table(
    "persons",
    metadata,
    Column("key", Key, primary_key=True, autoincrement=True),
    Column("gallery_key", Key, ForeignKey("galleries.key", ondelete="CASCADE"), nullable=False),
    Column("id", Id, nullable=False),
    Column("name", Text),
    Column("metadata", Json, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    # Of the key that the person's templates are sealed with.
    Column("key_name", LargeBinary),
    UniqueConstraint("gallery_key", "id"),
    Index("ix_persons_expires", "expires_at"),
    Index("ix_persons_created", "gallery_key", "created_at"),
    sqlite_autoincrement=True,
)

faces = Table(
    "faces",
    metadata,
    Column("key", Key, primary_key=True, autoincrement=True),
    Column("gallery_key", Key, ForeignKey("galleries.key", ondelete="CASCADE"), nullable=False),
    Column("person_key", Key, ForeignKey("persons.key", ondelete="CASCADE"), nullable=False),
    Column("id", Id, nullable=False),
    Column("facts", Json, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("gallery_key", "id"),
    Index("ix_faces_person", "person_key", "id"),
    # Holds all that the walk through a gallery's templates needs of this table.
    Index("ix_faces_gallery", "gallery_key", "key", "person_key"),
    sqlite_autoincrement=True,
)

# What was answered under an Idempotency-Key.
enrolments = Table(
    "enrolments",
    metadata,
    Column("gallery_key", Key, ForeignKey("galleries.key", ondelete="CASCADE"), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("person", Id, nullable=False),
    Column("request_sha256", String(64), nullable=False),
    Column("answer", Json, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index("ix_enrolments_person", "gallery_key", "person"),
)

# The file of keys that belongs to this database: one row.
key_file = Table("key_file", metadata, Column("id", LargeBinary, primary_key=True))

# Aligned faces, where they are kept at all: sealed like templates, and of one size like them.
crops = Table(
    "crops",
    metadata,
    Column("face_key", Key, ForeignKey("faces.key", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("sealed", LargeBinary, nullable=False),
)


# Galleries that have two spaces: see docs/migration.md. ``source_…`` is the one from before, ``target_…`` the new one.
model_migrations = Table(
    "model_migrations",
    metadata,
    Column("gallery_key", Key, ForeignKey("galleries.key", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("phase", String(16), nullable=False),
    Column("source_contract", Text, nullable=False),
    Column("source_dimension", Integer, nullable=False),
    Column("source_slot", Integer, nullable=False),
    Column("target_contract", Text, nullable=False),
    Column("target_dimension", Integer, nullable=False),
    Column("target_slot", Integer, nullable=False),
    # The key of the last face that any gallery had when it began: who has a newer one was enrolled again since.
    Column("since_face", Key, nullable=False),
    # Whether both bundles align faces alike, so that the crops that were kept can be embedded anew.
    Column("crops_fit", Boolean, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("cut_over_at", UtcDateTime),
)


@lru_cache
def templates_table(dimension: int, slot: int = 0) -> Table:
    """A table of templates of ``dimension``, made with the first gallery that needs it.

    There are two for each dimension, as a gallery that moves to another model may have two templates of each face; of
    which slot those of the gallery's pinned contract are is in its row.

    ``sealed`` is nonce, float32 little-endian (d,), tag: see ``service.security.envelope``.
    """
    table = Table(
        f"templates_{dimension}" + (f"_slot_{slot}" if slot else ""),
        MetaData(),
        Column("face_key", Key, ForeignKey(faces.c.key, ondelete="CASCADE"), primary_key=True, autoincrement=False),
        Column("sealed", LargeBinary, nullable=False),
        # PostgreSQL would put rows above 2 KB elsewhere, one by one, and try to compress what is sealed.
        postgresql_with={"toast_tuple_target": 8160},
    )
    plain = DDL(f"ALTER TABLE {table.name} ALTER COLUMN sealed SET STORAGE EXTERNAL")  # type: ignore[no-untyped-call]
    event.listen(table, "after_create", plain.execute_if(dialect="postgresql"))
    return table
