"""Tables that only PostgreSQL has, for searches in the database and for replicas that follow it.

Persons' vectors lie in one table a dimension, ``person_vectors_{d}``, with a partition for each gallery, which all
statements name: so that a gallery's index is its own, a search plans for one table, and a gallery that is deleted is
gone with its partition.
"""

from functools import lru_cache

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Integer,
    MetaData,
    Table,
    TableClause,
    column,
    table,
    text,
)
from sqlalchemy.types import UserDefinedType

metadata = MetaData()

# Galleries whose vectors are there.
searched = Table(
    "searched_galleries",
    metadata,
    Column("gallery_key", BigInteger, primary_key=True, autoincrement=False),
    Column("dimension", Integer, nullable=False),
    # Changes up to this revision are not kept any more.
    Column("forgotten", BigInteger, nullable=False),
)

# How many persons of a gallery have so many faces, counted along as every search asks it.
person_sizes = Table(
    "person_sizes",
    metadata,
    Column("gallery_key", BigInteger, primary_key=True, autoincrement=False),
    Column("faces", Integer, primary_key=True, autoincrement=False),
    Column("persons", BigInteger, nullable=False),
)

# What replicas follow: which face came or went with which revision of its gallery.
changes = Table(
    "changes",
    metadata,
    Column("gallery_key", BigInteger, primary_key=True, autoincrement=False),
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("face_key", BigInteger, primary_key=True, autoincrement=False),
    Column("added", Boolean, nullable=False),
)

# A row of this many dimensions still fits a page, and is scanned where it lies; larger ones are kept outside.
LARGEST_IN_PAGE = 3800


def parent_name(dimension: int) -> str:
    """The table of all vectors of a dimension."""
    return f"person_vectors_{dimension}"


def partition_name(dimension: int, gallery_key: int) -> str:
    """The part of it that one gallery has."""
    return f"{parent_name(dimension)}_{gallery_key}"


@lru_cache(4096)
def vectors_table(dimension: int, gallery_key: int) -> TableClause:
    """The partition of one gallery, for queries."""
    names = ("gallery_key", "person_key", "faces")
    columns = (column(name, BigInteger) for name in names)
    return table(partition_name(dimension, gallery_key), *columns, column("vector", Halfvec()))


class Halfvec(UserDefinedType[str]):
    """pgvector's vectors of float16, written as text."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "halfvec"


def make_partition(connection: Connection, dimension: int, gallery_key: int) -> None:
    """The table of a gallery's vectors, and that of its dimension with the first gallery.

    It is made first and attached then, which holds up nobody who uses other partitions.
    """
    parent, partition = parent_name(dimension), partition_name(dimension, gallery_key)
    if not connection.scalar(text("SELECT to_regclass(:name)"), {"name": parent}):
        plain = "ALTER TABLE {} ALTER COLUMN vector SET STORAGE PLAIN" if dimension <= LARGEST_IN_PAGE else "SELECT 1"
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": parent})
        connection.execute(
            text(
                f"CREATE TABLE IF NOT EXISTS {parent} (gallery_key bigint NOT NULL, person_key bigint NOT NULL, "
                f"faces integer NOT NULL, vector halfvec({dimension}) NOT NULL, "
                "PRIMARY KEY (gallery_key, person_key) INCLUDE (faces)) PARTITION BY LIST (gallery_key)"
            )
        )
        connection.execute(text(plain.format(parent)))
    connection.execute(text(f"CREATE TABLE {partition} (LIKE {parent} INCLUDING STORAGE INCLUDING INDEXES)"))
    connection.execute(text(f"ALTER TABLE {parent} ATTACH PARTITION {partition} FOR VALUES IN ({gallery_key:d})"))


def drop_partition(connection: Connection, dimension: int, gallery_key: int) -> None:
    """Take a gallery's vectors and their index away; waits for the searches that read them at this moment."""
    connection.execute(text(f"DROP TABLE IF EXISTS {partition_name(dimension, gallery_key)}"))
