"""Galleries, persons, faces and remembered enrolments.

Written out and not taken from ``service.gallery.tables``, which goes on changing. The tables of the templates,
``templates_<dimension>``, are made with the first gallery of their dimension.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

Key = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Id = sa.String(128).with_variant(sa.String(128, collation="C"), "postgresql")
Json = sa.JSON()
Time = sa.DateTime(timezone=True)
FIRST_FACE_KEY = 2**28 + 1


def upgrade() -> None:
    _galleries()
    _persons()
    _faces()
    _enrolments()


def _key() -> sa.Column[int]:
    return sa.Column("key", Key, primary_key=True, autoincrement=True)


def _of(parent: str, primary_key: bool = False) -> sa.Column[int]:
    target = {"gallery": "galleries.key", "person": "persons.key"}[parent]
    foreign = sa.ForeignKey(target, ondelete="CASCADE")
    return sa.Column(f"{parent}_key", Key, foreign, nullable=False, primary_key=primary_key)


def _galleries() -> None:
    op.create_table(
        "galleries",
        _key(),
        sa.Column("id", Id, unique=True),
        sa.Column("name", sa.Text),
        sa.Column("description", sa.Text),
        sa.Column("embedding_contract", sa.Text, nullable=False),
        sa.Column("dimension", sa.Integer, nullable=False),
        sa.Column("revision", Key, nullable=False),
        sa.Column("persons", Key, nullable=False),
        sa.Column("faces", Key, nullable=False),
        sa.Column("created_at", Time, nullable=False),
        sqlite_autoincrement=True,
    )


def _persons() -> None:
    op.create_table(
        "persons",
        _key(),
        _of("gallery"),
        sa.Column("id", Id, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("metadata", Json, nullable=False),
        sa.Column("expires_at", Time),
        sa.Column("created_at", Time, nullable=False),
        sa.Column("updated_at", Time, nullable=False),
        sa.UniqueConstraint("gallery_key", "id"),
        sqlite_autoincrement=True,
    )


def _faces() -> None:
    op.create_table(
        "faces",
        _key(),
        _of("gallery"),
        _of("person"),
        sa.Column("id", Id, nullable=False),
        sa.Column("facts", Json, nullable=False),
        sa.Column("created_at", Time, nullable=False),
        sa.UniqueConstraint("gallery_key", "id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_faces_person", "faces", ["person_key", "id"])
    op.create_index("ix_faces_gallery", "faces", ["gallery_key", "key", "person_key"])
    if op.get_bind().dialect.name == "sqlite":
        # See service.gallery.tables: it keeps all rows of a table of templates at one size.
        op.execute(f"INSERT INTO sqlite_sequence (name, seq) VALUES ('faces', {FIRST_FACE_KEY - 1})")


def _enrolments() -> None:
    op.create_table(
        "enrolments",
        _of("gallery", primary_key=True),
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("person", Id, nullable=False),
        sa.Column("request_sha256", sa.String(64), nullable=False),
        sa.Column("answer", Json, nullable=False),
        sa.Column("created_at", Time, nullable=False),
    )
    op.create_index("ix_enrolments_person", "enrolments", ["gallery_key", "person"])
