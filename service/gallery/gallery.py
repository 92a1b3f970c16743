"""Galleries as callers see them: every change is durable in the store *and* searchable before it is answered.

The store is the truth. A searcher, one a gallery, answers searches: in this process from the same templates in memory
(``segment_searcher``), or in the database that the store is in (``service.postgres``).
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from service.errors import GalleryNotFound, ModelMismatch, NotReady
from service.gallery.records import FaceRecord, GalleryRecord, Metadata, NewFace, Templates
from service.gallery.searcher import Changed, Held, Question, Searcher, Searchers, SearchResult
from service.gallery.segment_searcher import Segments
from service.gallery.store import AddedFaces, Once, Store
from service.gallery.store_bulk import BulkPerson, Imported
from service.metrics import stage


class Galleries:
    """All galleries of one store, for one embedding contract.

    Those that the store has already can be used once ``load`` has come to them.
    """

    def __init__(
        self,
        store: Store,
        embedding_contract: str,
        dimension: int,
        device: str = "cpu",
        searchers: Searchers | None = None,
    ) -> None:
        """
        Args:
            device: where searches run, "cpu" or "cuda", if there are no ``searchers``.
            searchers: who answers searches; None: segments in this process, which alone writes to the store.

        Raises:
            DeviceError: there is no index on ``device``.
        """
        self.store = store
        self.searchers = Segments(store, dimension, device) if searchers is None else searchers
        self._contract = embedding_contract
        self._dimension = dimension
        self._opening = threading.Lock()
        self._open = {record.key: self.searchers.of(record, made_now=False) for record in self._own()}

    @property
    def device(self) -> str:
        """Where searches run."""
        return self.searchers.device

    def load(self, told: Callable[[int], object] = lambda _: None) -> int:
        """Get all galleries ready, the smallest first; returns how many faces there are.

        Galleries that are loaded can be used meanwhile.

        Args:
            told: called with how many more faces are there now, again and again.
        """
        faces = 0
        for record in sorted(self._own(), key=lambda record: record.faces):
            opened = self._open.get(record.key)
            if opened is None or opened.loaded:
                continue
            with contextlib.suppress(GalleryNotFound):  # deleted meanwhile
                faces += opened.load(told)
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
            self.searchers.forget(key)

    def enrol(
        self,
        gallery: str,
        person: str,
        faces: Sequence[NewFace],
        once: Once | None,
        answer: Callable[[Sequence[FaceRecord]], Mapping[str, object]],
    ) -> AddedFaces:
        """Add faces to a person; when this returns they are durable and the next search sees them."""
        with self._changing(gallery) as changed:
            added = self.store.add_faces(gallery, person, faces, once, answer)
            if not added.repeated:
                keys = np.array([face.key for face in added.faces], np.int64)
                owners = np.full(len(keys), added.person_key, np.int64)
                changed.add(Templates(keys, owners, np.stack([face.embedding for face in faces])))
        return added

    def import_persons(self, gallery: str, persons: Sequence[BulkPerson]) -> Imported:
        """Make or change persons with all their faces, or none; as durable and as visible as ``enrol``."""
        with self._changing(gallery) as changed:
            imported = self.store.import_persons(gallery, persons)
            changed.add(imported.added)
        return imported

    def delete_person(self, gallery: str, person: str) -> None:
        """Remove a person with all faces; when this returns no search finds them."""
        with self._changing(gallery) as changed:
            changed.remove(np.array(self.store.delete_person(gallery, person), np.int64))

    def delete_if_due(self, gallery: str, person: str, at: datetime) -> bool:
        """Remove a person whose time is up at ``at``; whether it was. Also in galleries of another contract."""
        if self.store.gallery(gallery).embedding_contract != self._contract:
            return self.store.delete_if_due(gallery, person, at) is not None
        with self._changing(gallery) as changed:
            gone = self.store.delete_if_due(gallery, person, at)
            changed.remove(np.array(gone or [], np.int64))
        return gone is not None

    def delete_face(self, gallery: str, person: str, face: str) -> None:
        """Remove one face."""
        with self._changing(gallery) as changed:
            changed.remove(np.array([self.store.delete_face(gallery, person, face)], np.int64))

    def search(
        self,
        gallery: str,
        probes: NDArray[np.float32],
        top_k: int,
        where: Metadata | None,
        exact: bool = False,
    ) -> SearchResult:
        """The ``top_k`` most similar persons of each probe, (q, d) of unit length.

        Args:
            where: only persons with these metadata.
            exact: compare with every face, also where an index is used for speed.
        """
        record, opened = self._record(gallery)
        with stage("search"):
            return opened.search(record, Question(probes, top_k, where, exact))

    def person_embeddings(self, gallery: str, person: str) -> NDArray[np.float32]:
        """All enrolled templates of one person, (n, d)."""
        self._record(gallery)
        return self.store.embeddings(gallery, person)

    def held(self, gallery: GalleryRecord) -> Held:
        """What searches see of a gallery."""
        opened = self._open.get(gallery.key)
        # Not there: made since the service started, and nobody asked for it here yet.
        return Held(gallery.faces) if opened is None else opened.held(gallery)

    @contextlib.contextmanager
    def _changing(self, gallery: str) -> Iterator[Changed]:
        """For one change of a gallery: what is to be told of it."""
        record, opened = self._record(gallery)
        with opened.changing(gallery) as changed:
            yield changed
        if not opened.told:
            return
        with contextlib.suppress(GalleryNotFound):
            if self.store.gallery(gallery).key != record.key:
                # Deleted and made anew meanwhile; the change may be one of the new gallery.
                with self._changing(gallery):
                    pass

    def _own(self) -> Iterator[GalleryRecord]:
        """The galleries of this contract."""
        return (record for record in self.store.every_gallery() if record.embedding_contract == self._contract)

    def _record(self, gallery: str) -> tuple[GalleryRecord, Searcher]:
        """The gallery in the store, and who searches it.

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
            opened = self._open.get(record.key)
            if opened is None:
                opened = self._open[record.key] = self.searchers.of(record, made_now=True)
        if not opened.loaded:
            raise NotReady(
                f"Gallery {gallery!r} with its {record.faces} faces is still being loaded. Try again in a moment.",
                {"gallery": gallery, "retry_after_s": 1},
            )
        return record, opened
