"""Moving galleries from one bundle to another while they are used; see docs/migration.md."""
