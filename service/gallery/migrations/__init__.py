"""The history of the tables, for Alembic; ``service.gallery.database.migrate`` runs it."""
