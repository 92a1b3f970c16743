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
from service.gallery.moving import MovingSearcher, Noted, SpacesResult, other_contract
from service.gallery.records import FaceRecord, GalleryRecord, Metadata, NewFace
from service.gallery.searcher import Changed, Held, Question, Searcher, Searchers, SearchResult
from service.gallery.segment import Segment
from service.gallery.segment_searcher import Segments
from service.gallery.store import AddedFaces, Once, Store
from service.gallery.store_bulk import BulkPerson, Imported
from service.gallery.vectors import Vectors
from service.metrics import stage


class Galleries:
    """All galleries of one store whose embedding contracts are served.

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
            embedding_contract, dimension: of galleries that are made; ``serve`` adds others.
            device: where searches run, "cpu" or "cuda", if there are no ``searchers``.
            searchers: who answers searches; None: segments in this process, which alone writes to the store.

        Raises:
            DeviceError: there is no index on ``device``.
        """
        self.store = store
        self.searchers = Segments(store, device) if searchers is None else searchers
        # More contracts will be served before long.
        self.expecting = False
        self._contract = embedding_contract
        self._dimension = dimension
        self._served: set[str] = set()
        self._opening = threading.Lock()
        self._open: dict[int, Searcher] = {}
        self.serve(embedding_contract)

    def serve(self, contract: str) -> None:
        """Serve galleries of this contract, too; those that are there once ``load`` has come to them."""
        with self._opening:
            if contract not in self._served:
                self._served.add(contract)
                for record in self._own():
                    if record.embedding_contract == contract and record.key not in self._open:
                        self._open[record.key] = self._searcher(record, made_now=False)

    @property
    def device(self) -> str:
        """Where searches run."""
        return self.searchers.device

    @property
    def moves(self) -> bool:
        """Whether a gallery can be moved to another embedding space; see ``service.gallery.moves``."""
        return isinstance(self.searchers, Segments) and self.store.engine == "sqlite"

    def load(self, told: Callable[[int], object] = lambda _: None) -> int:
        """Get all galleries ready, the smallest first; returns how many faces there are.

        Galleries that are loaded can be used meanwhile.

        Args:
            told: called with how many more faces are there now, again and again.
        """
        faces = 0
        for record in sorted(self._own(), key=lambda record: record.faces):
            opened = self._open.get(record.key)
            if opened is None:
                continue
            with contextlib.suppress(GalleryNotFound):  # deleted meanwhile
                faces += opened.load(told)
        return faces

    def put(
        self, gallery: str, name: str | None, description: str | None, retention_days: int | None = None
    ) -> tuple[GalleryRecord, bool]:
        """Make a gallery, pinned to the default bundle's contract, or change what is shown of it."""
        pin = self._contract, self._dimension
        with contextlib.suppress(GalleryNotFound):
            there = self.store.gallery(gallery)
            if there.embedding_contract in self._served:
                pin = there.embedding_contract, there.dimension
        return self.store.put_gallery(gallery, name, description, *pin, retention_days)

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
                self._tell(changed, gallery, added, faces)
        return added

    def import_persons(self, gallery: str, persons: Sequence[BulkPerson], contract: str | None = None) -> Imported:
        """Make or change persons with all their faces, or none; as durable and as visible as ``enrol``.

        Args:
            contract: of the templates; None for the pinned one.
        """
        with self._changing(gallery) as changed:
            imported = self.store.import_persons(gallery, persons, contract)
            if isinstance(changed, Noted):
                changed.note(imported.added.faces, imported.added.persons, imported.contract)
            else:
                changed.add(imported.added)
        return imported

    def delete_person(self, gallery: str, person: str) -> None:
        """Remove a person with all faces; when this returns no search finds them."""
        with self._changing(gallery) as changed:
            changed.remove(np.array(self.store.delete_person(gallery, person), np.int64))

    def delete_if_due(self, gallery: str, person: str, at: datetime) -> bool:
        """Remove a person whose time is up at ``at``; whether it was. Also in galleries of another contract."""
        if self.store.gallery(gallery).embedding_contract not in self._served:
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

    def contracts(self, gallery: str) -> tuple[str, ...]:
        """Those under which photos are embedded to be searched or enrolled: the pinned one first.

        Raises GalleryNotFound, ModelMismatch, NotReady.
        """
        record, opened = self._record(gallery)
        both = opened.contracts if isinstance(opened, MovingSearcher) else ()
        return record.embedding_contract, *(contract for contract in both if contract != record.embedding_contract)

    def search_spaces(
        self, gallery: str, probes: Mapping[str, Vectors], top_k: int, where: Metadata | None, exact: bool = False
    ) -> SpacesResult:
        """As ``search``: each person under the contract where they are decided.

        Args:
            probes: by contract, the same faces under each of ``contracts``.

        Raises:
            ModelMismatch: one that is needed is not among them.
        """
        record, opened = self._record(gallery)
        with stage("search"):
            if isinstance(opened, MovingSearcher):
                question = Question(next(iter(probes.values())), top_k, where, exact)
                return opened.search_both(record, probes, question)
            contract = record.embedding_contract
            if contract not in probes:
                raise other_contract(record, next(iter(probes)))
            return SpacesResult.of(contract, opened.search(record, Question(probes[contract], top_k, where, exact)))

    def search_space(
        self, gallery: str, contract: str, probes: Vectors, top_k: int, where: Metadata | None, exact: bool = False
    ) -> SpacesResult:
        """As ``search``, among all who are in the space of a contract.

        Raises:
            ModelMismatch: it is none of the gallery's.
        """
        record, opened = self._record(gallery)
        question = Question(probes, top_k, where, exact)
        with stage("search"):
            if isinstance(opened, MovingSearcher):
                return SpacesResult.of(contract, opened.search_space(record, contract, question), moving=True)
            if contract != record.embedding_contract:
                raise other_contract(record, contract)
            return SpacesResult.of(contract, opened.search(record, question))

    def person_embeddings(self, gallery: str, person: str) -> tuple[str, NDArray[np.float32]]:
        """The contract under which a person is compared, and all enrolled templates, (n, d)."""
        self._record(gallery)
        return self.store.spaces.person_embeddings((gallery, person))

    def held(self, gallery: GalleryRecord) -> Held:
        """What searches see of a gallery."""
        opened = self._open.get(gallery.key)
        # Not there: made since the service started, and nobody asked for it here yet.
        return Held(gallery.faces) if opened is None else opened.held(gallery)

    @contextlib.contextmanager
    def replacing(self, gallery: str) -> Iterator[tuple[GalleryRecord, Searcher, Changed]]:
        """For a change that gives a gallery another searcher, by ``replace``."""
        with self._alone(gallery) as (record, opened, changed):
            yield record, opened, changed

    def replace(self, key: int, searcher: Searcher) -> None:
        """From here on this one searches the gallery with this key."""
        with self._opening:
            if key in self._open:
                self._open[key] = searcher

    @contextlib.contextmanager
    def _alone(self, gallery: str) -> Iterator[tuple[GalleryRecord, Searcher, Changed]]:
        """The only change of a gallery at this moment, told to the searcher that it has."""
        while True:
            record, opened = self._record(gallery)
            with opened.changing(gallery) as changed:
                # Replaced while its turn was waited for: the change is another's to be told of.
                if self._open.get(record.key, opened) is opened:
                    yield record, opened, changed
                    return

    @contextlib.contextmanager
    def _changing(self, gallery: str) -> Iterator[Changed]:
        """For one change of a gallery: what is to be told of it."""
        with self._alone(gallery) as (record, opened, changed):
            yield changed
        if not opened.told:
            return
        with contextlib.suppress(GalleryNotFound):
            if self.store.gallery(gallery).key != record.key:
                # Deleted and made anew meanwhile; the change may be one of the new gallery.
                with self._changing(gallery):
                    pass

    def _tell(self, changed: Changed, gallery: str, added: AddedFaces, faces: Sequence[NewFace]) -> None:
        if isinstance(changed, Noted):
            keys = np.array([face.key for face in added.faces], np.int64)
            changed.note(keys, np.full(len(keys), added.person_key, np.int64))
            return
        pinned = self.store.gallery(gallery).embedding_contract
        changed.add(added.templates(faces, pinned))

    def _searcher(self, record: GalleryRecord, made_now: bool) -> Searcher:
        migration = self.store.spaces.migration(record.key) if self.moves else None
        if migration is None:
            return self.searchers.of(record, made_now)
        segments = {space.contract: Segment(space.dimension, self.device) for space in migration.spaces}
        return MovingSearcher(self.store, migration, segments)

    def _own(self) -> Iterator[GalleryRecord]:
        """The galleries of contracts that are served."""
        return (record for record in self.store.every_gallery() if record.embedding_contract in self._served)

    def _record(self, gallery: str) -> tuple[GalleryRecord, Searcher]:
        """The gallery in the store, and who searches it.

        Raises:
            GalleryNotFound: there is none.
            ModelMismatch: it holds templates of a contract that is not served.
            NotReady: it is still being loaded.
        """
        record = self.store.gallery(gallery)
        if record.embedding_contract not in self._served:
            if self.expecting:
                raise NotReady("The bundles that galleries need are still being loaded.", {"retry_after_s": 1})
            raise ModelMismatch(
                f"Gallery {gallery!r} holds templates of contract {record.embedding_contract[:16]}…, this service runs "
                f"{' and '.join(f'{contract[:16]}…' for contract in sorted(self._served))}.",
                {"embedding_contract": record.embedding_contract},
            )
        with self._opening:
            # Not there: made since the service started.
            opened = self._open.get(record.key)
            if opened is None:
                opened = self._open[record.key] = self._searcher(record, made_now=True)
        if not opened.loaded:
            raise NotReady(
                f"Gallery {gallery!r} with its {record.faces} faces is still being loaded. Try again in a moment.",
                {"gallery": gallery, "retry_after_s": 1},
            )
        return record, opened
