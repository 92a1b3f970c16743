"""Galleries can have two embedding spaces, of which one is pinned."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.add_column("galleries", sa.Column("template_slot", sa.Integer, nullable=False, server_default="0"))
    op.create_table(
        "model_migrations",
        sa.Column(
            "gallery_key",
            KEY,
            sa.ForeignKey("galleries.key", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("phase", sa.String(16), nullable=False),
        *(
            sa.Column(f"{space}_{name}", kind, nullable=False)
            for space in ("source", "target")
            for name, kind in (("contract", sa.Text), ("dimension", sa.Integer), ("slot", sa.Integer))
        ),
        sa.Column("since_face", KEY, nullable=False),
        sa.Column("crops_fit", sa.Boolean, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cut_over_at", sa.DateTime(timezone=True)),
    )
