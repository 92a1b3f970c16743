"""Galleries as callers see them: every change is durable in the store *and* searchable before it is answered.

The store is the truth. A segment, one a gallery, holds the same templates in memory and answers searches; it is
rebuilt from the store at start. Changes of one gallery happen one at a time, in both, under that gallery's lock;
searches and changes of other galleries go on meanwhile.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import ModelMismatch
from service.gallery.coalesce import Probe, coalesced
from service.gallery.records import FaceRecord, GalleryRecord, Metadata, NewFace, PersonRecord, Templates
from service.gallery.segment import Hit, Segment
from service.gallery.store import AddedFaces, Once, Store


@dataclass(frozen=True)
class Candidate:
    """A person who may be the probe's. ``similarity`` is the cosine to the best of the person's faces."""

    person: PersonRecord
    face_id: str
    similarity: float
    rank: int


@dataclass(frozen=True)
class SearchResult:
    """Candidates of each probe, best first, and how many persons and faces were searched."""

    persons: int
    faces: int
    candidates: tuple[tuple[Candidate, ...], ...]


class _Open:
    """One gallery in memory."""

    def __init__(self, dimension: int) -> None:
        self.segment = Segment(dimension)
        self.searches = coalesced(self.segment)
        self.writing = threading.Lock()

    def search(self, probes: NDArray[np.float32], top_k: int, persons: NDArray[np.int64] | None) -> list[list[Hit]]:
        """A lone probe shares a scan with those of other callers; several are a scan of their own."""
        if len(probes) == 1:
            return [self.searches.ask(Probe(probes[0], top_k, persons))]
        return self.segment.search(probes, top_k, persons)


class Galleries:
    """All galleries of one store, for one embedding contract."""

    def __init__(self, store: Store, embedding_contract: str, dimension: int) -> None:
        self.store = store
        self._contract = embedding_contract
        self._dimension = dimension
        self._open: dict[int, _Open] = {}
        self._opening = threading.Lock()

    def load(self) -> int:
        """Build all segments from the store; returns how many faces there are. Called once, before any request."""
        cursor, faces = None, 0
        while True:
            page = self.store.galleries(cursor, 1000)
            for record in page.items:
                if record.embedding_contract != self._contract:
                    continue
                opened = _Open(self._dimension)
                for templates in self.store.templates(record.key):
                    opened.segment.add(templates)
                self._open[record.key] = opened
                faces += len(opened.segment)
            if page.cursor is None:
                return faces
            cursor = page.cursor

    def put(self, gallery: str, name: str | None, description: str | None) -> tuple[GalleryRecord, bool]:
        """Make or rename a gallery; it is pinned to this bundle's contract."""
        return self.store.put_gallery(gallery, name, description, self._contract, self._dimension)

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
        opened = self._opened(gallery)
        with opened.writing:
            added = self.store.add_faces(gallery, person, faces, once, answer)
            if not added.repeated:
                keys = np.array([face.key for face in added.faces], np.int64)
                owners = np.full(len(keys), added.person_key, np.int64)
                opened.segment.add(Templates(keys, owners, np.stack([face.embedding for face in faces])))
        return added

    def delete_person(self, gallery: str, person: str) -> None:
        """Remove a person with all faces; when this returns no search finds them."""
        opened = self._opened(gallery)
        with opened.writing:
            opened.segment.remove(np.array(self.store.delete_person(gallery, person), np.int64))

    def delete_face(self, gallery: str, person: str, face: str) -> None:
        """Remove one face."""
        opened = self._opened(gallery)
        with opened.writing:
            opened.segment.remove(np.array([self.store.delete_face(gallery, person, face)], np.int64))

    def search(self, gallery: str, probes: NDArray[np.float32], top_k: int, where: Metadata | None) -> SearchResult:
        """The ``top_k`` most similar persons of each probe, (q, d) of unit length.

        Args:
            where: only persons with these metadata.
        """
        record, opened = self._record(gallery)
        persons = None if where is None else self.store.person_keys(gallery, where)
        hits = opened.search(probes, top_k, persons)
        known = self.store.persons_by_key(sorted({hit.person for found in hits for hit in found}))
        faces = self.store.faces_by_key(sorted({hit.face for found in hits for hit in found}))
        candidates = []
        for found in hits:
            # Whoever was deleted since the scan is no candidate.
            alive = [hit for hit in found if hit.person in known and hit.face in faces]
            candidates.append(
                tuple(
                    Candidate(known[hit.person], faces[hit.face].id, hit.similarity, rank)
                    for rank, hit in enumerate(alive, start=1)
                )
            )
        return SearchResult(record.persons if persons is None else len(persons), record.faces, tuple(candidates))

    def person_embeddings(self, gallery: str, person: str) -> NDArray[np.float32]:
        """All enrolled templates of one person, (n, d)."""
        self._opened(gallery)
        return self.store.embeddings(gallery, person)

    def _opened(self, gallery: str) -> _Open:
        return self._record(gallery)[1]

    def _record(self, gallery: str) -> tuple[GalleryRecord, _Open]:
        """The gallery in the store and in memory.

        Raises:
            GalleryNotFound: there is none.
            ModelMismatch: it holds templates of another contract.
        """
        record = self.store.gallery(gallery)
        if record.embedding_contract != self._contract:
            raise ModelMismatch(
                f"Gallery {gallery!r} holds templates of contract {record.embedding_contract[:16]}…, this service runs "
                f"{self._contract[:16]}….",
                {"embedding_contract": record.embedding_contract},
            )
        with self._opening:
            if record.key not in self._open:
                self._open[record.key] = _Open(self._dimension)
            return record, self._open[record.key]
