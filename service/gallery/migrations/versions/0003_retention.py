"""Galleries have a time for which persons are kept, and those whose time is up are found by an index."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("galleries", sa.Column("retention_days", sa.Integer))
    op.create_index("ix_persons_expires", "persons", ["expires_at"])
    op.create_index("ix_persons_created", "persons", ["gallery_key", "created_at"])
