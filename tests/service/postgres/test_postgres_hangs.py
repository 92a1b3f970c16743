"""A PostgreSQL that stands still: connections come about, and nothing is answered."""

import time
from concurrent.futures import Future, ThreadPoolExecutor

from service.errors import NotReady
from service.gallery.store import Store
from service.postgres.readiness import FRESH_S, SLOW_S
from service.postgres.store import open_store
from service.security.master_key import GivenPlace, MasterKey
from tests.postgres_server import postgres_running


def ready(store: Store) -> bool:
    try:
        store.check()
    except NotReady:
        return False
    return True


def seconds_until(store: Store, pool: ThreadPoolExecutor, wanted: bool) -> float:
    """Until a health check says so, of those that ask every quarter of a second, whether they are answered or not."""
    began, asked = time.monotonic(), list[Future[bool]]()
    while not any(answer.done() and answer.result() == wanted for answer in asked):
        assert time.monotonic() - began < 15, "it was never said"
        asked = [pool.submit(ready, store)]
        time.sleep(0.25)
    return time.monotonic() - began


def test_a_database_that_hangs_is_not_ready_until_it_goes_on() -> None:
    with postgres_running(durable=False) as server, server.database() as name, ThreadPoolExecutor(64) as pool:
        store = open_store(server.url(name), GivenPlace(MasterKey.new().text()))
        assert ready(store)
        with server.frozen():
            assert SLOW_S <= seconds_until(store, pool, wanted=False) < FRESH_S + SLOW_S + 2
            # And stays so, without anybody waiting for it any more.
            began = time.monotonic()
            assert not any(ready(store) for _ in range(3))
            assert time.monotonic() - began < 1
        assert seconds_until(store, pool, wanted=True) < 5
        store.close()
