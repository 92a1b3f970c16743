"""Searches of a gallery that has two embedding spaces, in this process: a segment for each. See docs/migration.md.

Each segment has all faces of its space; a search goes through the persons of each who are decided there.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.errors import ModelMismatch
from service.gallery.candidates import Candidate
from service.gallery.filling import catch_up
from service.gallery.records import GalleryRecord, Templates
from service.gallery.searcher import Held, Question, SearchResult
from service.gallery.segment import Segment
from service.gallery.segment_searcher import SegmentSearch
from service.gallery.spaces import Migration
from service.gallery.store import Store
from service.gallery.vectors import Keys, Vectors

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SpaceResult:
    """What a search found in one embedding space.

    Attributes:
        sizes: how many of the persons searched there have so many faces.
        candidates: of each probe, best first.
    """

    contract: str
    sizes: Mapping[int, int]
    candidates: tuple[tuple[Candidate, ...], ...]


@dataclass(frozen=True)
class SpacesResult:
    """What was searched, and found in each space in which somebody is, the pinned one first; one entry at least.

    Attributes:
        persons: how many, also those without a face, who cannot be found.
        faces: of the gallery.
        moving: the gallery has two spaces.
        pinned: the contract that a raw threshold is one of, whoever is searched under it.
    """

    persons: int
    faces: int
    spaces: tuple[SpaceResult, ...]
    moving: bool
    pinned: str

    @classmethod
    def of(cls, contract: str, found: SearchResult, moving: bool = False) -> "SpacesResult":
        """A search of one space."""
        space = SpaceResult(contract, found.sizes, found.candidates)
        return cls(found.persons, found.faces, (space,), moving, contract)


@dataclass(eq=False)
class Noted:
    """The faces and persons of one change, which is read from the store when it is made.

    Attributes:
        faces: those that are new in a space, by its contract; under None those that are new in each that they are in.
    """

    faces: dict[str | None, list[int]] = field(default_factory=dict)
    persons: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)

    def add(self, templates: Templates) -> None:
        self.note(templates.faces, templates.persons)

    def note(self, faces: Keys, persons: Keys, contract: str | None = None) -> None:
        """Faces that are new, or new in the space of a contract."""
        self.faces.setdefault(contract, []).extend(faces.tolist())
        self.persons += persons.tolist()

    def remove(self, faces: NDArray[np.int64]) -> None:
        self.gone += faces.tolist()

    def of(self, contract: str) -> list[int]:
        """Those that the space of a contract is to look for."""
        return self.faces.get(None, []) + self.faces.get(contract, [])


class MovingSearcher:
    """A ``Searcher`` for a gallery with two spaces, of a store that only this process writes to.

    Changes happen one at a time, in the store and then in the segments; searches go on meanwhile.

    Attributes:
        segments: by contract.
    """

    told = True

    def __init__(self, store: Store, migration: Migration, segments: Mapping[str, Segment]) -> None:
        """``segments``: by contract; what they have already is kept."""
        self.loaded = False
        self.segments = dict(segments)
        self._store, self._key = store, migration.gallery_key
        self._searches = {contract: SegmentSearch(segment, store) for contract, segment in segments.items()}
        # Of whom each search asks in which space, int64 ascending. Replaced as a whole, so that nobody is in none.
        self._parts: Mapping[str, Keys] = {contract: np.empty(0, np.int64) for contract in segments}
        self._writing = threading.Lock()
        # A change failed half way, and the next one has to catch up first.
        self._stale = False

    @property
    def contracts(self) -> tuple[str, ...]:
        """Of the two spaces."""
        return tuple(self.segments)

    def load(self, progress: Callable[[int], object]) -> int:
        with self._writing:
            if not self.loaded:
                self._follow(progress)
                self.loaded = True
            return self.faces()

    @contextlib.contextmanager
    def changing(self, gallery: str) -> Iterator[Noted]:  # noqa: ARG002
        with self._writing:
            if self._stale:
                self._follow()
            noted, self._stale = Noted(), True
            try:
                yield noted
                self._take(noted)
                self._stale = False
            except BaseException:
                try:
                    self._follow()
                except Exception:
                    log.exception("A gallery that is moved is out of step with its store until its next change.")
                raise

    def search(self, gallery: GalleryRecord, question: Question) -> SearchResult:
        """Among all who are in the pinned space."""
        return self.search_space(gallery, gallery.embedding_contract, question)

    def search_space(self, gallery: GalleryRecord, contract: str, question: Question) -> SearchResult:
        """Among all who are in the space of a contract. Raises ModelMismatch: it is none of the gallery's."""
        if contract not in self._searches:
            raise other_contract(gallery, contract)
        return self._searches[contract].search(gallery, question)

    def search_both(self, gallery: GalleryRecord, probes: Mapping[str, Vectors], question: Question) -> SpacesResult:
        """Each person in the space where they are decided.

        Args:
            probes: by contract, the same faces under each; those of ``question`` are not looked at.

        Raises:
            ModelMismatch: a contract that is needed is not among the probes'.
        """
        there = None if question.where is None else self._store.person_keys(gallery.id, question.where)
        parts = {
            contract: part if there is None else np.intersect1d(there, part, assume_unique=True)
            for contract, part in sorted(self._parts.items(), key=lambda each: each[0] != gallery.embedding_contract)
        }
        # Where somebody is; the pinned space if nobody is anywhere.
        asked = [contract for contract, part in parts.items() if len(part)] or list(parts)[:1]
        if missing := [contract for contract in asked if contract not in probes]:
            raise other_contract(gallery, next(iter(probes)), missing[0])
        found = tuple(
            SpaceResult(
                contract,
                self.segments[contract].sizes(parts[contract]),
                self._searches[contract].among(probes[contract], question.top_k, parts[contract]),
            )
            for contract in asked
        )
        persons = gallery.persons if there is None else len(there)
        return SpacesResult(persons, gallery.faces, found, moving=True, pinned=gallery.embedding_contract)

    def held(self, gallery: GalleryRecord) -> Held:  # noqa: ARG002
        return Held(self.faces(), self.loaded)

    def faces(self) -> int:
        """How many can be found, in whichever space."""
        first, second = (segment.faces() for segment in self.segments.values())
        return len(np.union1d(first, second))

    def turned(self) -> None:
        """Who is searched where is decided anew for everybody. For whoever is ``changing``."""
        migration = self._store.spaces.migration(self._key)
        if migration is not None:
            self._parts = self._decided(migration, None)

    def _take(self, noted: Noted) -> None:
        """Bring what was noted from the store."""
        migration = self._store.spaces.migration(self._key)
        if migration is None:  # it was ended by this very change
            return
        gone = np.array(noted.gone, np.int64)
        touched = set(noted.persons)
        for space in migration.spaces:
            segment = self.segments[space.contract]
            if noted.gone:
                touched |= set(segment.owners(gone).tolist())
                segment.remove(gone)
            if wanted := noted.of(space.contract):
                segment.add(self._store.spaces.reader(space).templates_of(self._key, wanted))
        self._decide(migration, touched)

    def _decide(self, migration: Migration, persons: Iterable[int]) -> None:
        """These have other faces than before."""
        changed = np.unique(np.array(list(persons), np.int64))
        fresh = self._decided(migration, changed.tolist())
        self._parts = {
            contract: np.union1d(np.setdiff1d(part, changed, assume_unique=True), fresh[contract])
            for contract, part in self._parts.items()
        }

    def _follow(self, progress: Callable[[int], object] = lambda _: None) -> None:
        """Bring everything to what the store has."""
        migration = self._store.spaces.migration(self._key)
        if migration is None:
            return
        for space in migration.spaces:
            catch_up(self.segments[space.contract], self._store.spaces.reader(space), self._key, progress)
        self._parts = self._decided(migration, None)
        self._stale = False

    def _decided(self, migration: Migration, among: Iterable[int] | None) -> Mapping[str, Keys]:
        found = self._store.spaces.decided(migration, among)
        preferred, other = migration.preferred
        return {preferred.contract: found.preferred, other.contract: found.others}


def other_contract(gallery: GalleryRecord, given: str, wanted: str | None = None) -> ModelMismatch:
    """The error for embeddings of another contract than the gallery's."""
    wanted = wanted or gallery.embedding_contract
    return ModelMismatch(
        f"The embeddings were made under contract {given[:16]!r}…, gallery {gallery.id!r} holds those of "
        f"{wanted[:16]!r}…; embed the photos again.",
        {"embedding_contract": wanted},
    )
