"""Where the searches of a store in PostgreSQL run: in the database, or in memory here where a gallery is followed."""

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import text

from service.errors import LikenessError
from service.gallery import store_galleries
from service.gallery.records import GalleryRecord, Templates
from service.gallery.searcher import Changed, Held, Question, SearchResult
from service.gallery.store import Store
from service.postgres.follower import Follower
from service.postgres.hnsw import Hnsw
from service.postgres.room import Room
from service.postgres.search import DatabaseSearch
from service.postgres.vectors import PersonVectors, can_be_searched
from service.postgres.wakes import Wakes

log = logging.getLogger(__name__)
Place = Literal["auto", "database", "memory"]

# On a CPU, galleries with fewer faces are searched in the database as quickly as anybody can tell.
MEMORY_FROM = 2000
# Seconds between looks at what indexes there are to build, and at galleries that are gone.
TEND_EVERY_S = 30.0


@dataclass(frozen=True)
class SearchPlan:
    """Where searches are to run.

    Attributes:
        place: ``memory``: here, as far as there is room; ``auto``: there too, but for small galleries on a CPU.
        device: of the segments in memory, "cpu" or "cuda".
        memory_mib: most that they may take together.
        hnsw: what indexes the database is to have.
    """

    place: Place = "auto"
    device: str = "cpu"
    memory_mib: int = 2048
    hnsw: Hnsw = field(default_factory=Hnsw)


class PostgresSearchers:
    """``Searchers`` for a store that any number of processes write to."""

    def __init__(self, store: Store, sessions: Any, vectors: PersonVectors, plan: SearchPlan) -> None:
        """See ``searchers_of``."""
        self._store, self._sessions, self._vectors, self.plan = store, sessions, vectors, plan
        self.device = "postgresql" if plan.place == "database" else plan.device
        self.exact = not plan.hnsw.from_persons
        self.database = DatabaseSearch(sessions, vectors, plan.hnsw)
        self.room = Room(plan.memory_mib << 20)
        self.wakes = Wakes(sessions.engine, self._heard)
        self._open: dict[int, PostgresSearcher] = {}
        self._work: queue.SimpleQueue[PostgresSearcher | None] = queue.SimpleQueue()
        self._ending = threading.Event()
        self._threads = [
            threading.Thread(target=self._follow, name="gallery-follower", daemon=True),
            threading.Thread(target=self._tend, name="gallery-indexes", daemon=True),
        ]

    def start(self) -> "PostgresSearchers":
        """Begin to follow other replicas and to tend indexes, in the background."""
        self.wakes.start()
        for thread in self._threads:
            thread.start()
        return self

    def close(self) -> None:
        """Stop both; an index that is being built is left to the next one who looks."""
        self._ending.set()
        self._work.put(None)
        self.wakes.close()

    def of(self, gallery: GalleryRecord, made_now: bool) -> "PostgresSearcher":  # noqa: ARG002
        with self._sessions.read() as connection:
            loaded = can_be_searched(connection, gallery)
        opened = self._open[gallery.key] = PostgresSearcher(self, gallery, loaded)
        return opened

    def forget(self, key: int) -> None:
        opened = self._open.pop(key, None)
        if opened is not None:
            self.room.give_back(key)
            opened.follower.give_up()

    def follower(self, gallery: GalleryRecord) -> Follower:
        """A new one, with nothing in memory yet."""
        return Follower(self._store, self._sessions, self._vectors, gallery, self.plan.device)

    def fill(self, gallery: GalleryRecord) -> None:
        """Write the vectors of a gallery that is older than they are; other replicas wait for it."""
        with self._sessions.write() as connection:
            # However long another replica takes for it.
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            locked = store_galleries.get(connection, gallery.id)
            if not can_be_searched(connection, locked):
                log.info("Writing the vectors of gallery %s with %d faces.", locked.id, locked.faces)
                self._vectors.fill(connection, locked)

    def soon(self, searcher: "PostgresSearcher") -> None:
        """Bring a gallery in step, or build it, in the background."""
        self._work.put(searcher)

    def tend(self) -> None:
        """Build and drop indexes as the galleries' sizes ask for, and forget galleries that are gone."""
        # Looked at first: one that is opened meanwhile may have been made meanwhile.
        opened = list(self._open)
        records = list(self._store.every_gallery())
        there = {record.key for record in records}
        for key in [key for key in opened if key not in there]:
            self.forget(key)
        # A deletion that was cut off (PostgreSQL was away, a replica died) waits for no restart.
        self._store.finish_deletions()
        for record in self.plan.hnsw.due(self._sessions.engine, records):
            try:
                self.plan.hnsw.tend(self._sessions.engine, record)
            except Exception:
                # The gallery may be gone meanwhile; the others' indexes do not wait for it.
                log.exception("The index of gallery %s could not be tended.", record.id)

    def _heard(self, key: int | None) -> None:
        for opened in list(self._open.values()) if key is None else [self._open.get(key)]:
            if opened is not None and opened.follower.ready:
                opened.ask()

    def _follow(self) -> None:
        while (opened := self._work.get()) is not None:
            opened.get_in_step()

    def _tend(self) -> None:
        while not self._ending.wait(TEND_EVERY_S):
            try:
                self.tend()
            except Exception:
                # The database is away, a gallery was deleted while its index was built: there is a next time.
                log.exception("Indexes could not be tended.")


class PostgresSearcher:
    """A ``Searcher`` of one gallery in PostgreSQL, which learns of changes from the database."""

    told = False

    def __init__(self, searchers: PostgresSearchers, gallery: GalleryRecord, loaded: bool) -> None:
        """``loaded``: its vectors are in the database."""
        self.loaded = loaded
        self.follower = searchers.follower(gallery)
        self._searchers, self._gallery = searchers, gallery
        # Asked for from the background already.
        self._waiting = threading.Event()

    def load(self, progress: Callable[[int], object]) -> int:
        if not self.loaded:
            self._searchers.fill(self._gallery)
            self.loaded = True
        if self._wanted(self._gallery):
            self.ask()
        progress(self._gallery.faces)
        return self._gallery.faces

    @contextlib.contextmanager
    def changing(self, gallery: str) -> Iterator[Changed]:  # noqa: ARG002
        yield _NOBODY
        self._searchers.wakes.tell(self._gallery.key)

    def search(self, gallery: GalleryRecord, question: Question) -> SearchResult:
        if self._wanted(gallery):
            in_memory = self.follower.at(gallery.revision)
            if in_memory is not None:
                found = in_memory.search(gallery, question)
                if self.follower.trusts(in_memory):
                    return found
            self.ask()
        return self._searchers.database.search(gallery, question)

    def held(self, gallery: GalleryRecord) -> Held:
        if not self.follower.ready:
            # In the database they are as soon as they are committed.
            return Held(gallery.faces, self.loaded)
        return Held(len(self.follower), self.loaded, max(0, gallery.revision - self.follower.revision))

    def get_in_step(self) -> None:
        """Follow, or build what is not there yet; what goes wrong is logged, as nobody waits for it."""
        self._waiting.clear()
        try:
            if self.follower.ready:
                self.follower.catch_up()
            if not self.follower.ready and self._searchers.room.has(self._gallery.key):
                self.follower.build()
        except LikenessError as error:
            log.warning("Gallery %s is not in memory for now: %s", self._gallery.id, error)
        except Exception:
            log.exception("Gallery %s is not in memory for now.", self._gallery.id)

    def ask(self) -> None:
        """Have it brought in step in the background, unless that is waiting already."""
        if not self._waiting.is_set():
            self._waiting.set()
            self._searchers.soon(self)

    def _wanted(self, gallery: GalleryRecord) -> bool:
        """Whether it is to be searched here, and there is room for it."""
        plan, room = self._searchers.plan, self._searchers.room
        if plan.place == "database" or (plan.place == "auto" and plan.device == "cpu" and gallery.faces < MEMORY_FROM):
            return False
        if room.take(gallery):
            return True
        if self.follower.ready:
            log.warning("Gallery %s has outgrown the memory for searches; the database searches it.", gallery.id)
            self.follower.give_up()
        return False


class _Nobody:
    """Takes what was changed, and needs none of it: it is in the database."""

    def add(self, templates: Templates) -> None: ...

    def remove(self, faces: NDArray[np.int64]) -> None: ...


_NOBODY = _Nobody()


def searchers_of(store: Store, plan: SearchPlan) -> PostgresSearchers:
    """Those of a store from ``open_store``; ``start`` them for what goes on in the background."""
    vectors = store.backend.projection
    if not isinstance(vectors, PersonVectors):
        raise ValueError("This store writes no vectors into PostgreSQL.")
    return PostgresSearchers(store, store.backend.sessions, vectors, plan)
