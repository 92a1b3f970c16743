"""PostgreSQL only: what searches in the database and replicas that follow it need; partitions come with galleries."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    op.create_table(
        "searched_galleries",
        sa.Column("gallery_key", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("dimension", sa.Integer, nullable=False),
        sa.Column("forgotten", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "person_sizes",
        sa.Column("gallery_key", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("faces", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("persons", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "changes",
        sa.Column("gallery_key", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("revision", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("face_key", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("added", sa.Boolean, nullable=False),
    )
