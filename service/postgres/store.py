"""The store on PostgreSQL."""

from service.gallery.backend import Backend
from service.gallery.store import Store
from service.postgres.database import open_postgres
from service.postgres.person_keys import PostgresKeys
from service.postgres.readiness import Readiness
from service.postgres.sessions import PostgresSessions
from service.postgres.vectors import PersonVectors
from service.security.master_key import MasterPlace


def open_store(url: str, place: MasterPlace) -> Store:
    """The store in the database at ``url``; any number of replicas may have it open.

    Args:
        place: of the master key, the same for all replicas.

    Raises:
        MasterKeyError, KeyFileError: see ``PostgresKeys.open``.
        InvalidRequest, Unavailable: see ``open_postgres``.
    """
    engine = open_postgres(url)
    try:
        keys = PostgresKeys.open(engine, place)
        sessions = PostgresSessions(engine)
        return Store(Backend(sessions, keys, keys.differences, Readiness(sessions, keys), PersonVectors(keys)))
    except BaseException:
        engine.dispose()
        raise
