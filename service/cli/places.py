"""Where a service has its access keys and its audit log: in its data folder, or in the database of all its replicas."""

import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.api.guard import Guard
from service.security import access_keys, audit_file, audit_log
from service.security.access_key_file import AccessKeyFile
from service.security.access_keys import AccessKeys
from service.security.audit_file import AuditFile
from service.security.audit_log import Link, Verified
from service.security.envelope import derive
from service.security.key_file import FILE_NAME, KeyFile, read_secret
from service.security.person_keys import PersonKeys
from service.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

log = logging.getLogger(__name__)

# Of their own: a crowd at those of the gallery keeps nobody from being counted, told of, or refused.
CONNECTIONS = 12


@contextmanager
def guarding(settings: Settings, keys: PersonKeys) -> Iterator[Guard]:
    """What a running service is guarded with.

    Args:
        keys: of the persons; the service's secret is with them.
    """
    with _shared(settings, keys) if settings.database_url is not None else _of_folder(settings, keys) as guard:
        if guard.keys is None:
            log.warning("Callers need no access key: every program of this machine may do everything.")
        elif not guard.keys.all():
            log.warning("There is no access key yet, so nobody can call: make one with `likeness keys create`.")
        yield guard


@contextmanager
def _of_folder(settings: Settings, keys: PersonKeys) -> Iterator[Guard]:
    guard = Guard(audit=AuditFile(settings.audit_folder(), keys.derived(audit_log.PURPOSE)))
    with closing(guard):
        if settings.auth:
            guard.keys = AccessKeyFile(settings.keys_folder(), keys.derived(access_keys.PURPOSE))
        yield guard


@contextmanager
def _shared(settings: Settings, keys: PersonKeys) -> Iterator[Guard]:
    # Only here: without PostgreSQL its driver need not be loaded.
    from service.postgres.access import PostgresAccessKeys
    from service.postgres.audit import PostgresAuditLog
    from service.postgres.database import reached
    from service.postgres.limits import PostgresLimits

    assert settings.database_url is not None
    with reached(settings.database_url.get_secret_value(), CONNECTIONS) as engine:
        guard = Guard(audit=PostgresAuditLog(engine, keys.derived(audit_log.PURPOSE)))
        with closing(guard):
            if settings.auth:
                followed = PostgresAccessKeys(engine, keys.derived(access_keys.PURPOSE))
                followed.follow()
                guard.keys, guard.limits = followed, PostgresLimits(engine)
            yield guard


@contextmanager
def access_keys_of(settings: Settings) -> Iterator[AccessKeys]:
    """The access keys, also while the service runs, and before its first start."""
    if settings.database_url is not None:
        from service.postgres.access import PostgresAccessKeys

        with _database(settings) as (engine, secret):
            yield PostgresAccessKeys(engine, derive(secret, access_keys.PURPOSE))
        return
    folder, place = settings.keys_folder(), settings.master_place()
    if not (folder / FILE_NAME).exists():
        KeyFile.open(folder, place).close()
    yield AccessKeyFile(folder, derive(read_secret(folder, place), access_keys.PURPOSE))


@dataclass(frozen=True)
class Audit:
    """An audit log to be read, also while the service writes it.

    Attributes:
        verify: given a receipt that has to be in it, or None.
        read: all lines, checked.
        key: of its chain.
    """

    verify: Callable[[str | None], Verified]
    read: Callable[[], Generator[Link, None, None]]
    key: bytes


@contextmanager
def audit_of(settings: Settings) -> Iterator[Audit]:
    """The audit log."""
    if settings.database_url is not None:
        from service.postgres import audit as shared_audit

        with _database(settings) as (engine, secret):
            key = derive(secret, audit_log.PURPOSE)
            yield Audit(
                lambda receipt: shared_audit.verify(engine, key, receipt), lambda: shared_audit.read(engine, key), key
            )
        return
    folder = settings.audit_folder()
    key = derive(read_secret(settings.keys_folder(), settings.master_place()), audit_log.PURPOSE)
    yield Audit(lambda receipt: audit_file.verify(folder, key, receipt), lambda: audit_file.read(folder, key), key)


@contextmanager
def _database(settings: Settings) -> Iterator[tuple["Engine", bytes]]:
    """The database of all replicas, and the service's secret."""
    from service.postgres.database import open_postgres
    from service.postgres.person_keys import PostgresKeys

    assert settings.database_url is not None
    engine = open_postgres(settings.database_url.get_secret_value())
    try:
        yield engine, PostgresKeys.open(engine, settings.master_place()).secret
    finally:
        engine.dispose()
