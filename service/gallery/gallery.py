"""Galleries as callers see them: every change is durable in the store *and* searchable before it is answered.

The store is the truth. A segment, one a gallery, holds the same templates in memory and answers searches; it is
built from the store at start, and again by the difference should the two ever differ. Changes of one gallery happen
one at a time, in both, under that gallery's lock; searches and changes of other galleries go on meanwhile.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from service.errors import GalleryNotFound, ModelMismatch, NotReady
from service.gallery.candidates import Candidate, NamedSegment
from service.gallery.filling import catch_up
from service.gallery.probes import Probe, shared_scans
from service.gallery.records import FaceRecord, GalleryRecord, Metadata, NewFace, Templates
from service.gallery.segment import Segment
from service.gallery.store import AddedFaces, Once, Store
from service.gallery.store_bulk import BulkPerson, Imported
from service.metrics import stage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchResult:
    """Candidates of each probe, best first, and what was searched.

    Attributes:
        persons: how many, also those without a face, who cannot be found.
        faces: of the gallery.
        sizes: how many of the persons searched have so many faces.
    """

    persons: int
    faces: int
    sizes: Mapping[int, int]
    candidates: tuple[tuple[Candidate, ...], ...]


class _Open:
    """One gallery in memory.

    Attributes:
        loaded: whether the segment has all that the store had when the service started.
        writing: held by whoever changes the gallery.
    """

    def __init__(self, segment: Segment, store: Store, loaded: bool) -> None:
        self.segment = segment
        self.writing = threading.Lock()
        self.loaded = loaded
        self._named = NamedSegment(segment, store.owners, store.first_faces)
        self._shared = shared_scans(self._named)

    def search(
        self, probes: NDArray[np.float32], top_k: int, persons: NDArray[np.int64] | None
    ) -> list[list[Candidate]]:
        """A lone probe shares a scan with those of other callers; several are a scan of their own."""
        if len(probes) == 1:
            return [self._shared.ask(Probe(probes[0], top_k, persons))]
        return self._named.search(probes, top_k, persons)


class Galleries:
    """All galleries of one store, for one embedding contract.

    Those that the store has already can be used once ``load`` has come to them.
    """

    def __init__(self, store: Store, embedding_contract: str, dimension: int, device: str = "cpu") -> None:
        """
        Args:
            device: where searches run, "cpu" or "cuda".

        Raises:
            DeviceError: there is no index on ``device``.
        """
        self.store = store
        self.device = device
        self._contract = embedding_contract
        self._dimension = dimension
        self._opening = threading.Lock()
        self._open = {record.key: self._new(loaded=False) for record in self._own()}

    def load(self, told: Callable[[int], object] = lambda _: None) -> int:
        """Build all segments from the store, the smallest first; returns how many faces there are.

        Galleries that are loaded can be used meanwhile.

        Args:
            told: called with how many more faces are there now, again and again.
        """
        faces = 0
        for record in sorted(self._own(), key=lambda record: record.faces):
            opened = self._open.get(record.key)
            if opened is None or opened.loaded:
                continue
            with opened.writing, contextlib.suppress(GalleryNotFound):  # deleted meanwhile
                catch_up(opened.segment, self.store, record.key, told)
                opened.loaded = True
                faces += len(opened.segment)
        return faces

    def put(
        self, gallery: str, name: str | None, description: str | None, retention_days: int | None = None
    ) -> tuple[GalleryRecord, bool]:
        """Make a gallery, pinned to this bundle's contract, or change what is shown of it."""
        return self.store.put_gallery(gallery, name, description, self._contract, self._dimension, retention_days)

    def delete(self, gallery: str) -> None:
        """Remove a gallery with everything in it."""
        key = self.store.gallery(gallery).key
        try:
            self.store.delete_gallery(gallery)
        finally:
            # Gone for callers with the first step of the deletion, even if clearing up behind it fails.
            self._open.pop(key, None)

    def enrol(
        self,
        gallery: str,
        person: str,
        faces: Sequence[NewFace],
        once: Once | None,
        answer: Callable[[Sequence[FaceRecord]], Mapping[str, object]],
    ) -> AddedFaces:
        """Add faces to a person; when this returns they are durable and the next search sees them."""
        with self._changing(gallery) as segment:
            added = self.store.add_faces(gallery, person, faces, once, answer)
            if not added.repeated:
                keys = np.array([face.key for face in added.faces], np.int64)
                owners = np.full(len(keys), added.person_key, np.int64)
                segment.add(Templates(keys, owners, np.stack([face.embedding for face in faces])))
        return added

    def import_persons(self, gallery: str, persons: Sequence[BulkPerson]) -> Imported:
        """Make or change persons with all their faces, or none; as durable and as visible as ``enrol``."""
        with self._changing(gallery) as segment:
            imported = self.store.import_persons(gallery, persons)
            segment.add(imported.added)
        return imported

    def delete_person(self, gallery: str, person: str) -> None:
        """Remove a person with all faces; when this returns no search finds them."""
        with self._changing(gallery) as segment:
            segment.remove(np.array(self.store.delete_person(gallery, person), np.int64))

    def delete_if_due(self, gallery: str, person: str, at: datetime) -> bool:
        """Remove a person whose time is up at ``at``; whether it was. Also in galleries of another contract."""
        if self.store.gallery(gallery).embedding_contract != self._contract:
            return self.store.delete_if_due(gallery, person, at) is not None
        with self._changing(gallery) as segment:
            gone = self.store.delete_if_due(gallery, person, at)
            segment.remove(np.array(gone or [], np.int64))
        return gone is not None

    def delete_face(self, gallery: str, person: str, face: str) -> None:
        """Remove one face."""
        with self._changing(gallery) as segment:
            segment.remove(np.array([self.store.delete_face(gallery, person, face)], np.int64))

    def search(self, gallery: str, probes: NDArray[np.float32], top_k: int, where: Metadata | None) -> SearchResult:
        """The ``top_k`` most similar persons of each probe, (q, d) of unit length.

        Args:
            where: only persons with these metadata.
        """
        record, opened = self._record(gallery)
        persons = None if where is None else self.store.person_keys(gallery, where)
        with stage("search"):
            found = opened.search(probes, top_k, persons)
        searched = record.persons if persons is None else len(persons)
        candidates = tuple(tuple(those) for those in found)
        return SearchResult(searched, record.faces, opened.segment.sizes(persons), candidates)

    def person_embeddings(self, gallery: str, person: str) -> NDArray[np.float32]:
        """All enrolled templates of one person, (n, d)."""
        self._record(gallery)
        return self.store.embeddings(gallery, person)

    def held(self, key: int) -> tuple[int, bool]:
        """Of the gallery with this key: how many faces searches see, and whether these are all it had at the start."""
        opened = self._open.get(key)
        # Not there: made since the service started, and nothing was enrolled yet.
        return (0, True) if opened is None else (len(opened.segment), opened.loaded)

    @contextlib.contextmanager
    def _changing(self, gallery: str) -> Iterator[Segment]:
        """The gallery's segment, for one change at a time, and in step with the store before and after it.

        A change that fails half way (no memory for the index, no disk behind a deletion) may leave the two apart;
        changes add faces or remove them, never both, so that their numbers tell.
        """
        record, opened = self._record(gallery)
        with opened.writing:
            self._in_step(gallery, record.key, opened.segment)
            try:
                yield opened.segment
            except BaseException:
                try:
                    self._in_step(gallery, record.key, opened.segment)
                except Exception:
                    log.exception("Gallery %s is out of step with its store until its next change.", gallery)
                raise
        with contextlib.suppress(GalleryNotFound):
            if self.store.gallery(gallery).key != record.key:
                # Deleted and made anew meanwhile; the change may be one of the new gallery.
                with self._changing(gallery):
                    pass

    def _in_step(self, gallery: str, key: int, segment: Segment) -> None:
        if self.store.gallery(gallery).faces != len(segment):
            log.warning("The index of gallery %s was out of step with its store; catching up.", gallery)
            catch_up(segment, self.store, key)

    def _own(self) -> Iterator[GalleryRecord]:
        """The galleries of this contract."""
        return (record for record in self.store.every_gallery() if record.embedding_contract == self._contract)

    def _new(self, loaded: bool) -> _Open:
        return _Open(Segment(self._dimension, self.device), self.store, loaded)

    def _record(self, gallery: str) -> tuple[GalleryRecord, _Open]:
        """The gallery in the store and in memory.

        Raises:
            GalleryNotFound: there is none.
            ModelMismatch: it holds templates of another contract.
            NotReady: it is still being loaded.
        """
        record = self.store.gallery(gallery)
        if record.embedding_contract != self._contract:
            raise ModelMismatch(
                f"Gallery {gallery!r} holds templates of contract {record.embedding_contract[:16]}…, this service runs "
                f"{self._contract[:16]}….",
                {"embedding_contract": record.embedding_contract},
            )
        with self._opening:
            # Not there: made since the service started.
            opened = self._open.get(record.key) or self._open.setdefault(record.key, self._new(loaded=True))
        if not opened.loaded:
            raise NotReady(
                f"Gallery {gallery!r} with its {record.faces} faces is still being loaded. Try again in a moment.",
                {"gallery": gallery, "retry_after_s": 1},
            )
        return record, opened
