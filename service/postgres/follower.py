"""One gallery of the database in memory, as a replica follows it: a cache that is never asked while it is behind."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from sqlalchemy import select

from service.errors import GalleryNotFound
from service.gallery.filling import catch_up
from service.gallery.records import GalleryRecord, Templates
from service.gallery.segment import Segment
from service.gallery.segment_searcher import SegmentSearch
from service.gallery.store import Store
from service.gallery.tables import galleries
from service.gallery.vectors import Keys
from service.postgres import changes
from service.postgres.changes import Changes
from service.postgres.vectors import PersonVectors

NONE = np.empty(0, np.int64)


class Follower:
    """A segment with the revision of the gallery that it is of. Thread-safe.

    Every change comes from the database's list of changes, those of this replica too.
    """

    def __init__(
        self, store: Store, sessions: Any, vectors: PersonVectors, gallery: GalleryRecord, device: str = "cpu"
    ) -> None:
        self._store, self._sessions, self._vectors = store, sessions, vectors
        self._key, self._dimension, self._device = gallery.key, gallery.dimension, device
        # Held by whoever changes the segment.
        self._changing = threading.Lock()
        self._segment: Segment | None = None
        self._search: SegmentSearch | None = None
        self._revision = -1

    @property
    def ready(self) -> bool:
        """Whether there is a segment that only has to follow."""
        return self._search is not None

    @property
    def revision(self) -> int:
        """Of the segment; -1 where there is none."""
        return self._revision

    def __len__(self) -> int:
        """Faces in memory."""
        segment = self._segment
        return 0 if segment is None else len(segment)

    def at(self, revision: int) -> SegmentSearch | None:
        """The segment, of this revision or a later one; None where it has to be built first."""
        search = self._search
        if search is not None and self._revision < revision:
            with self._changing:
                if self._search is not None and self._revision < revision:
                    self._follow()
                search = self._search
        return search

    def trusts(self, search: SegmentSearch) -> bool:
        """Whether a segment that ``at`` gave was whole all the time since."""
        return self._search is search

    def catch_up(self) -> None:
        """Follow to the present revision, if there is a segment and nobody else does so already."""
        if self._search is not None and self._changing.acquire(blocking=False):
            try:
                if self._search is not None:
                    self._follow()
            finally:
                self._changing.release()

    def build(self, told: Callable[[int], object] = lambda _: None) -> None:
        """Bring the segment to the present revision by comparing all faces; searches go elsewhere meanwhile.

        Raises GalleryNotFound.
        """
        with self._changing:
            if self._search is not None:
                return
            segment = self._segment or Segment(self._dimension, self._device)
            # Kept should the rest fail: the next attempt goes on from there.
            self._segment = segment
            missed = None
            while missed is None:
                before = self._present_revision()
                catch_up(segment, self._store, self._key, told)
                # Of what came meanwhile, the comparison may have seen some.
                missed = self._missed(before, segment.faces())
            changed, templates = missed
            segment.change(templates, changed.removed)
            self._revision, self._search = changed.revision, SegmentSearch(segment, self._store)

    def give_up(self) -> None:
        """Let go of the memory."""
        with self._changing:
            self._segment = self._search = None
            self._revision = -1

    def _follow(self) -> None:
        """One step, from a revision that is exactly that of the segment."""
        assert self._segment is not None
        missed = self._missed(self._revision)
        if missed is None:
            self._search = None
            return
        changed, templates = missed
        try:
            if len(templates.faces) or len(changed.removed):
                self._segment.change(templates, changed.removed)
        except BaseException:
            # Perhaps half of it is there: compared anew before the segment is asked again.
            self._search = None
            raise
        self._revision = changed.revision

    def _missed(self, revision: int, held: Keys = NONE) -> tuple[Changes, Templates] | None:
        """What happened after ``revision``, without faces in ``held``; None where it was too much."""
        with self._sessions.read() as connection:
            changed = changes.since(connection, self._key, revision)
            if changed is None:
                return None
            new = np.setdiff1d(changed.added, held) if len(held) else changed.added
            return changed, self._vectors.templates_with(connection, self._key, self._dimension, new.tolist())

    def _present_revision(self) -> int:
        with self._sessions.read() as connection:
            query = select(galleries.c.revision).where(galleries.c.key == self._key, galleries.c.id.is_not(None))
            found = connection.execute(query).scalar_one_or_none()
        if found is None:
            raise GalleryNotFound(f"There is no gallery with the key {self._key}.", {"key": self._key})
        return int(found)
