"""The store that the settings name: a file in the data folder, or PostgreSQL for any number of replicas."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from service.gallery.searcher import Searchers
from service.gallery.store import Store
from service.security.key_file import KeyFile
from service.security.master_key import MasterKey
from service.settings import Settings

log = logging.getLogger(__name__)


def open_store(settings: Settings) -> Store:
    """Open it, with the keys of the persons. Raises like ``Store.open`` and ``service.postgres.store.open_store``."""
    place = settings.master_place()
    if settings.database_url is None:
        keys = KeyFile.open(settings.keys_folder(), place)
        return Store.open(settings.data_dir / "gallery" / "gallery.db", keys=keys)
    # Only here: without PostgreSQL its driver need not be loaded.
    from service.postgres import store
    from service.postgres.address import shown

    url = settings.database_url.get_secret_value()
    log.info("The galleries are in PostgreSQL: %s.", shown(url))
    if (settings.data_dir / "gallery" / "gallery.db").exists():
        log.warning("There is a gallery.db in %s, too; it is not used, as there is a database_url.", settings.data_dir)
    return store.open_store(url, place)


@contextmanager
def searching(settings: Settings, store: Store, device: str) -> Iterator[Searchers | None]:
    """Who answers searches of a store from ``open_store``, as long as it is needed; None: segments in this process.

    Args:
        device: of what is searched in memory, "cpu" or "cuda".
    """
    if settings.database_url is None:
        yield None
        return
    from service.postgres.hnsw import Hnsw
    from service.postgres.searchers import SearchPlan, searchers_of

    plan = SearchPlan(settings.search_in, device, settings.search_memory_mib, Hnsw(settings.hnsw_from))
    searchers = searchers_of(store, plan).start()
    try:
        yield searchers
    finally:
        searchers.close()


def rotate_master(settings: Settings, master: MasterKey) -> int:
    """Wrap the keys of all persons under another master key, see ``rotate`` of either keys; of how many persons."""
    place = settings.master_place()
    # What has no keys yet is not given any.
    place.read(may_make=False)
    if settings.database_url is None:
        keys = KeyFile.open(settings.keys_folder(), place)
        try:
            return keys.rotate(place, master)
        finally:
            keys.close()
    from service.postgres.database import reached
    from service.postgres.person_keys import PostgresKeys

    with reached(settings.database_url.get_secret_value()) as engine:
        return PostgresKeys.open(engine, place).rotate(engine, place, master)
