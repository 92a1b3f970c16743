"""Replicas of the service's galleries on one database, each as a process of its own would have them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from service.gallery.gallery import Galleries
from service.gallery.records import NewFace
from service.gallery.store_bulk import BulkFace, BulkPerson
from service.postgres.hnsw import Hnsw
from service.postgres.searchers import PostgresSearchers, SearchPlan, searchers_of
from service.postgres.store import open_store
from service.security.master_key import FilePlace

CONTRACT, DIMENSION = "c" * 64, 16


class Replica:
    """A store, its searchers, and the galleries over both."""

    def __init__(self, url: str, folder: Path, plan: SearchPlan, background: bool = True) -> None:
        """``background``: False for a replica that follows only when it is asked to (``get_in_step``)."""
        self.store = open_store(url, FilePlace(folder / "master.key"))
        self.searchers: PostgresSearchers = searchers_of(self.store, plan)
        if background:
            self.searchers.start()
        self.galleries = Galleries(self.store, CONTRACT, DIMENSION, searchers=self.searchers)
        self.galleries.load()

    def close(self) -> None:
        self.searchers.close()
        self.store.close()

    def get_in_step(self, gallery: str) -> None:
        """Build or follow now what the background would."""
        self.galleries.search(gallery, probe(0), 1, None)
        self.galleries._open[self.store.gallery(gallery).key].get_in_step()

    def follower(self, gallery: str):
        return self.galleries._open[self.store.gallery(gallery).key].follower

    def enrol(self, gallery: str, person: str, vectors: np.ndarray, prefix: str = "") -> None:
        self.store.put_person(gallery, person)
        faces = [NewFace(vector, f"{prefix}{person}-{i}") for i, vector in enumerate(vectors)]
        self.galleries.enrol(gallery, person, faces, None, lambda _: {})

    def found(self, gallery: str, asked: np.ndarray, top_k: int = 1, **how: object) -> list[tuple[str, float]]:
        """Persons and similarities for one probe."""
        [candidates] = self.galleries.search(
            gallery, asked.reshape(1, -1), top_k, how.pop("where", None), **how
        ).candidates
        return [(candidate.person.id, candidate.similarity) for candidate in candidates]


@contextmanager
def replicas(url: str, folder: Path, *plans: SearchPlan, background: bool = True) -> Iterator[list[Replica]]:
    """Several at once, one a plan."""
    opened: list[Replica] = []
    try:
        for plan in plans:
            opened.append(Replica(url, folder, plan, background))
        yield opened
    finally:
        for replica in opened:
            replica.close()


DATABASE, MEMORY = SearchPlan("database", hnsw=Hnsw(0)), SearchPlan("memory", hnsw=Hnsw(0))


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def bulk(vectors: np.ndarray, prefix: str = "p") -> list[BulkPerson]:
    """A person a vector, for an import."""
    return [BulkPerson(f"{prefix}{i}", faces=(BulkFace(f"{prefix}{i}", v),)) for i, v in enumerate(vectors)]


def probe(seed: int, dimension: int = DIMENSION) -> np.ndarray:
    """A unit vector, (1, d)."""
    return unit(np.random.default_rng(seed).standard_normal((1, dimension)))


def counted(place: str, method: str) -> Callable[[], float]:
    """How many probes were compared there since now."""
    from service.metrics import SEARCHES

    counter = SEARCHES.labels(place, method)._value
    before = counter.get()
    return lambda: counter.get() - before
