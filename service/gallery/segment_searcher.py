"""Searches in this process: one segment a gallery, which is told of every change."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from service.gallery.candidates import Candidate, NamedSegment
from service.gallery.filling import catch_up
from service.gallery.probes import Probe, shared_scans
from service.gallery.records import GalleryRecord, Metadata
from service.gallery.searcher import Held, Question, SearchResult
from service.gallery.segment import Segment
from service.gallery.store import Store
from service.metrics import SEARCHES

log = logging.getLogger(__name__)


class SegmentSearch:
    """A segment whose hits are named by the store."""

    def __init__(self, segment: Segment, store: Store) -> None:
        self.segment = segment
        self._store = store
        self._named = NamedSegment(segment, store.owners, store.first_faces)
        self._shared = shared_scans(self._named)

    def search(self, gallery: GalleryRecord, question: Question) -> SearchResult:
        """See ``Searcher.search``; the segment is in step with the store."""
        SEARCHES.labels("memory", "exact").inc(len(question.probes))
        persons = self._persons(gallery.id, question.where)
        found = self._candidates(question, persons)
        searched = gallery.persons if persons is None else len(persons)
        return SearchResult(searched, gallery.faces, self.segment.sizes(persons), tuple(map(tuple, found)))

    def among(
        self, probes: NDArray[np.float32], top_k: int, persons: NDArray[np.int64]
    ) -> tuple[tuple[Candidate, ...], ...]:
        """The candidates of each probe among these persons, by their keys."""
        SEARCHES.labels("memory", "exact").inc(len(probes))
        return tuple(map(tuple, self._candidates(Question(probes, top_k), persons)))

    def _persons(self, gallery: str, where: Metadata | None) -> NDArray[np.int64] | None:
        return None if where is None else self._store.person_keys(gallery, where)

    def _candidates(self, question: Question, persons: NDArray[np.int64] | None) -> list[list[Candidate]]:
        """A lone probe shares a scan with those of other callers; several are a scan of their own."""
        if len(question.probes) == 1:
            return [self._shared.ask(Probe(question.probes[0], question.top_k, persons))]
        return self._named.search(question.probes, question.top_k, persons)


class SegmentSearcher:
    """A ``Searcher`` for a store that only this process writes to.

    Changes happen one at a time, in the store and then in the segment; searches go on meanwhile.
    """

    told = True

    def __init__(self, segment: Segment, store: Store, key: int, loaded: bool) -> None:
        """``loaded``: the store has nothing of this gallery yet."""
        self.segment, self.loaded = segment, loaded
        self._store, self._key = store, key
        self._search = SegmentSearch(segment, store)
        # Held by whoever changes the gallery.
        self._writing = threading.Lock()

    def load(self, progress: Callable[[int], object]) -> int:
        if self.loaded:
            return 0
        with self._writing:
            catch_up(self.segment, self._store, self._key, progress)
            self.loaded = True
            return len(self.segment)

    @contextlib.contextmanager
    def changing(self, gallery: str) -> Iterator[Segment]:
        """The segment, for one change at a time, and in step with the store before and after it.

        A change that fails half way (no memory for the index, no disk behind a deletion) may leave the two apart;
        changes add faces or remove them, never both, so that their numbers tell.
        """
        with self._writing:
            self._in_step(gallery)
            try:
                yield self.segment
            except BaseException:
                try:
                    self._in_step(gallery)
                except Exception:
                    log.exception("Gallery %s is out of step with its store until its next change.", gallery)
                raise

    def search(self, gallery: GalleryRecord, question: Question) -> SearchResult:
        return self._search.search(gallery, question)

    def held(self, gallery: GalleryRecord) -> Held:  # noqa: ARG002
        return Held(len(self.segment), self.loaded)

    def _in_step(self, gallery: str) -> None:
        if self._store.gallery(gallery).faces != len(self.segment):
            log.warning("The index of gallery %s was out of step with its store; catching up.", gallery)
            catch_up(self.segment, self._store, self._key)


class Segments:
    """A segment for each gallery, all on one device: ``Searchers`` for a store that only this process writes to."""

    exact = True

    def __init__(self, store: Store, device: str = "cpu") -> None:
        self.device = device
        self._store = store

    def of(self, gallery: GalleryRecord, made_now: bool) -> SegmentSearcher:
        """Raises DeviceError: there is no index on the device."""
        return SegmentSearcher(Segment(gallery.dimension, self.device), self._store, gallery.key, loaded=made_now)

    def forget(self, key: int) -> None:
        """Nothing is kept of it here."""
