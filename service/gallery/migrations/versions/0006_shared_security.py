"""Access keys, their limits and the audit log of all replicas. On PostgreSQL only: elsewhere they are files."""

from alembic import op

revision = "0006"
down_revision = "0005"

TABLES = (
    "CREATE TABLE access_keys (id text PRIMARY KEY, record text NOT NULL, mac bytea NOT NULL, "
    "made bigint GENERATED ALWAYS AS IDENTITY)",
    # Another one after each change of access_keys.
    "CREATE TABLE access_keys_stamp (one boolean PRIMARY KEY CHECK (one), stamp uuid NOT NULL)",
    "INSERT INTO access_keys_stamp VALUES (true, gen_random_uuid())",
    # Room on each page for new versions of its rows, which are changed with every request.
    "CREATE UNLOGGED TABLE key_uses (key_id text PRIMARY KEY, tokens double precision NOT NULL, "
    "at timestamptz NOT NULL, places jsonb NOT NULL, refused text) WITH (fillfactor = 50)",
    "CREATE TABLE audit_lines (seq bigint PRIMARY KEY, line text NOT NULL)",
    "CREATE TABLE audit_head (one boolean PRIMARY KEY CHECK (one), seal bytea NOT NULL)",
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for statement in TABLES:
            op.execute(statement)
