"""Alembic's entry. The connection is handed over by ``service.gallery.database.migrate``, in its transaction."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
