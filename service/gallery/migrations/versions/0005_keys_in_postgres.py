"""PostgreSQL only: the keys of the persons, in a schema of their own so that a dump can leave them out.

Also an index for searches by metadata, and no attempt to compress what is sealed.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

SCHEMA = "likeness_keys"


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute(f"CREATE SCHEMA {SCHEMA}")
    op.create_table(
        "service",
        sa.Column("one", sa.SmallInteger, sa.CheckConstraint("one = 1"), primary_key=True, autoincrement=False),
        sa.Column("id", sa.LargeBinary, nullable=False),
        sa.Column("master", sa.Text, nullable=False),
        sa.Column("name", sa.LargeBinary, nullable=False),
        sa.Column("wrapped", sa.LargeBinary, nullable=False),
        schema=SCHEMA,
    )
    op.create_table(
        "person_keys",
        sa.Column("person_key", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("name", sa.LargeBinary, nullable=False),
        sa.Column("wrapped", sa.LargeBinary, nullable=False),
        schema=SCHEMA,
    )
    op.create_table(
        "erased",
        sa.Column("person_key", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("erased_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        schema=SCHEMA,
    )
    op.execute("CREATE INDEX ix_persons_metadata ON persons USING gin (CAST(metadata AS jsonb) jsonb_path_ops)")
    op.execute("ALTER TABLE crops ALTER COLUMN sealed SET STORAGE EXTERNAL")
