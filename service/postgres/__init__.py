"""The gallery in PostgreSQL, for any number of replicas; what both backends share is in ``service.gallery``."""
