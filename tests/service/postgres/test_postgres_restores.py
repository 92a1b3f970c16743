"""Dumps that are restored over a database that went on: keys that are too old, erasures by two replicas at once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psycopg
import pytest

from service.gallery.store import Store
from service.postgres.store import open_store
from service.security.key_file import KeyFileError
from tests.postgres_server import SUPERUSER, PostgresServer
from tests.service.postgres.test_postgres_keys import DIMENSION, GIVEN, add, dump, everyone, persons, vector_of
from tests.service.postgres.waiting import wait_for_waiting


@pytest.fixture
def galleries(postgres_url: str) -> Iterator[Store]:
    store = open_store(postgres_url, GIVEN)
    store.put_gallery("g", None, None, "contract", DIMENSION)
    for person in ("ann", "bob", "eve"):
        add(store, person)
    yield store
    store.close()


def restore(server: PostgresServer, url: str, content: bytes, *options: str) -> None:
    copy = server.folder / "copy"
    copy.write_bytes(content)
    server.run("pg_restore", *options, "--dbname", server.url(url.rsplit("/", 1)[1], SUPERUSER), copy)


def test_keys_that_are_older_than_the_database_are_refused_and_newer_ones_taken(
    galleries: Store, postgres_server: PostgresServer, postgres_url: str
) -> None:
    old = dump(postgres_url, "--schema=likeness_keys", "--format=custom")
    add(galleries, "new")
    add(galleries, "newer")
    new = dump(postgres_url, "--schema=likeness_keys", "--format=custom")
    # Whoever is erased since is nobody whose key is missing.
    galleries.delete_person("g", "newer")
    galleries.close()
    restore(postgres_server, postgres_url, old, "--clean")
    with pytest.raises(KeyFileError, match="1 persons are not in the schema likeness_keys.* newest copy back"):
        open_store(postgres_url, GIVEN)
    restore(postgres_server, postgres_url, new, "--clean")
    again = open_store(postgres_url, GIVEN)
    assert persons(again) == everyone("ann", "bob", "eve", "new")
    again.close()


def test_replicas_that_start_at_once_after_a_restore_erase_once(
    galleries: Store, postgres_server: PostgresServer, postgres_url: str
) -> None:
    """As after a recovery to a point in time, with the erasures since put in by hand."""
    gone = [galleries.person("g", person).key for person in ("ann", "bob")]
    revision = galleries.gallery("g").revision
    galleries.close()
    with psycopg.connect(postgres_url) as connection:
        connection.execute("INSERT INTO likeness_keys.erased (person_key) SELECT unnest(%s::bigint[])", [gone])
    with psycopg.connect(postgres_url) as holding, ThreadPoolExecutor(2) as pool:
        holding.execute("SELECT 1 FROM galleries FOR NO KEY UPDATE")
        starting = [pool.submit(open_store, postgres_url, GIVEN) for _ in range(2)]
        wait_for_waiting(postgres_server, postgres_url, 2)
        holding.rollback()
        both = [started.result() for started in starting]
    for store in both:
        assert persons(store) == everyone("eve")
        found = store.gallery("g")
        assert (found.persons, found.faces, found.revision) == (1, 1, revision + 2)
        store.close()


def test_a_gallery_made_after_a_restore_has_none_of_the_vectors_of_one_that_had_its_key(
    galleries: Store, postgres_server: PostgresServer, postgres_url: str
) -> None:
    """Where the dump was restored, and the vectors of what came after it were not dropped."""
    left_out = ("--exclude-schema=likeness_keys", "--exclude-extension=vector", "--exclude-table=person_vectors_*")
    before = dump(postgres_url, *left_out, "--format=custom")
    galleries.put_gallery("later", None, None, "contract", DIMENSION)
    galleries.put_person("later", "zoe")
    key = galleries.gallery("later").key
    galleries.close()
    restore(postgres_server, postgres_url, before, "--clean")
    again = open_store(postgres_url, GIVEN)
    made, _ = again.put_gallery("anew", None, None, "contract", DIMENSION)
    assert made.key == key, "not what this is about"
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute(f"SELECT count(*) FROM person_vectors_{DIMENSION}_{key}".encode()).fetchone() == (0,)
    np.testing.assert_array_equal(again.embeddings("g", "ann"), [vector_of("ann")])
    again.close()
