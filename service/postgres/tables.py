"""The tables that only PostgreSQL has, in SQLAlchemy Core."""

from sqlalchemy import BigInteger, Column, DateTime, LargeBinary, MetaData, SmallInteger, Table, Text, func

# A schema of its own, and no reference to or from the other tables: a dump can leave it out, and then holds no key.
keys = MetaData(schema="likeness_keys")

# One row: the service's own secret under the master key ``master``, whose name it is; ``id`` is of all keys together.
service = Table(
    "service",
    keys,
    Column("one", SmallInteger, primary_key=True, autoincrement=False),
    Column("id", LargeBinary, nullable=False),
    Column("master", Text, nullable=False),
    Column("name", LargeBinary, nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
)

# ``wrapped`` is the person's key under the master key; ``name`` is its nonce.
person_keys = Table(
    "person_keys",
    keys,
    Column("person_key", BigInteger, primary_key=True, autoincrement=False),
    Column("name", LargeBinary, nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
)

# Who was erased, by number alone: whom a backup brings back is erased again.
erased = Table(
    "erased",
    keys,
    Column("person_key", BigInteger, primary_key=True, autoincrement=False),
    Column("erased_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
