"""Templates are sealed, each with the key of its person; what is there in clear is sealed now.

The rows move to a new table, since sealed ones are longer. The old one is dropped, and ``secure_delete`` overwrites its
pages. That needs as much free disk again as the templates take.
"""

import numpy as np
import sqlalchemy as sa
from alembic import context, op

from service.security.envelope import seal, template_place
from service.security.key_file import KeyFile, KeyFileError, new_name

revision = "0002"
down_revision = "0001"

BLOCK = 8192


def upgrade() -> None:
    op.add_column("persons", sa.Column("key_name", sa.LargeBinary))
    op.create_table("key_file", sa.Column("id", sa.LargeBinary, primary_key=True))
    # On PostgreSQL nothing was ever in clear, and the keys are not in a file.
    if op.get_bind().dialect.name == "sqlite":
        _seal(op.get_bind(), context.config.attributes["keys"])


def _seal(connection: sa.Connection, keys: KeyFile) -> None:
    if keys.bound:
        raise KeyFileError(
            f"The keys in {keys.path} belong to another database than this one, which has none yet. Put that database "
            "back; or, to start anew without what it held, take the folder of the keys away."
        )
    connection.execute(sa.text("INSERT INTO key_file (id) VALUES (:id)"), {"id": keys.id})
    _make_keys(connection, keys)
    for name in sa.inspect(connection).get_table_names():
        if name.startswith("templates_"):
            _seal_table(connection, keys, name)


def _make_keys(connection: sa.Connection, keys: KeyFile) -> None:
    persons = connection.execute(sa.text("SELECT key FROM persons")).scalars().all()
    names = {person: new_name() for person in persons}
    if names:
        named = [{"person": person, "name": name} for person, name in names.items()]
        connection.execute(sa.text("UPDATE persons SET key_name = :name WHERE key = :person"), named)
        keys.add(names)


def _seal_table(connection: sa.Connection, keys: KeyFile, name: str) -> None:
    op.rename_table(name, f"clear_{name}")
    op.create_table(
        name,
        sa.Column(
            "face_key",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            sa.ForeignKey("faces.key", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
    )
    some = sa.text(
        f"SELECT f.key, f.person_key, f.gallery_key, t.embedding FROM clear_{name} t "
        "JOIN faces f ON f.key = t.face_key WHERE t.face_key > :after ORDER BY t.face_key LIMIT :block"
    )
    after = 0
    while rows := connection.execute(some, {"after": after, "block": BLOCK}).all():
        ciphers = keys.ciphers(np.array([row.person_key for row in rows], np.int64))
        sealed = [
            {
                "face": row.key,
                "sealed": seal(
                    ciphers[row.person_key], row.embedding, template_place(row.gallery_key, row.person_key, row.key)
                ),
            }
            for row in rows
        ]
        connection.execute(sa.text(f"INSERT INTO {name} (face_key, sealed) VALUES (:face, :sealed)"), sealed)
        after = rows[-1].key
    op.drop_table(f"clear_{name}")
