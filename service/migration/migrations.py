"""Migrations as an operator sees them: bundles and galleries together."""

from dataclasses import dataclass

from service.engine import Engine
from service.engines import Engines
from service.errors import InvalidRequest
from service.gallery import moves
from service.gallery.gallery import Galleries
from service.gallery.records import Page
from service.gallery.spaces import Migration, Pending, Progress


@dataclass(frozen=True)
class Status:
    """A gallery's migration.

    Attributes:
        migration, progress: None where the gallery has one space.
        contract: the pinned one.
        bundles: names of the bundles that are loaded, by contract.
    """

    gallery: str
    contract: str
    migration: Migration | None
    progress: Progress | None
    bundles: dict[str, str]


class Migrations:
    """Begins, turns and ends them. Thread-safe."""

    def __init__(self, engines: Engines, galleries: Galleries) -> None:
        self._engines, self._galleries = engines, galleries

    def start(self, gallery: str, bundle: str) -> Status:
        """Begin to move a gallery to a bundle, which is loaded if it is not; the same again changes nothing.

        Raises:
            GalleryNotFound, Conflict, BundleError, DeviceError
            InvalidRequest: the bundle has no calibration, so that no search by an error rate could be answered.
        """
        source = self._engines.of(self._galleries.contracts(gallery)[0])
        target = self._engines.load(bundle)
        lacking = [engine.card.name for engine in (target, source) if engine.card.calibration is None]
        if lacking:
            raise InvalidRequest(
                f"The bundle {lacking[0]!r} has no calibration, so searches by an error rate would be refused. "
                "Measure it with `likeness calibrate` first.",
                {"bundle": lacking[0]},
            )
        self.serve(target)
        crops_fit = target.card.contract.alignment == source.card.contract.alignment
        moves.begin(self._galleries, gallery, target.contract, target.card.contract.dimension, crops_fit)
        return self.status(gallery)

    def serve(self, engine: Engine) -> None:
        """Serve the galleries of a bundle."""
        self._galleries.serve(engine.contract)
        self._galleries.load()

    def serve_all(self) -> None:
        """Load the bundles that galleries need, as far as they are there, and the galleries."""
        store = self._galleries.store
        needed = {record.embedding_contract for record in store.every_gallery()}
        needed |= {space.contract for _, migration in store.spaces.migrations() for space in migration.spaces}
        self._engines.load_for(sorted(needed))
        for engine in self._engines.loaded():
            self._galleries.serve(engine.contract)

    def status(self, gallery: str) -> Status:
        """Raises GalleryNotFound."""
        store = self._galleries.store
        record = store.gallery(gallery)
        migration = store.spaces.migration(record.key)
        progress = None if migration is None else store.spaces.progress(migration)
        bundles = {engine.contract: engine.card.name for engine in self._engines.loaded()}
        return Status(gallery, record.embedding_contract, migration, progress, bundles)

    def cut_over(self, gallery: str) -> Status:
        """Pin the gallery to the target; both spaces stay. Raises GalleryNotFound, Conflict."""
        moves.turn(self._galleries, gallery, "cut_over")
        return self.status(gallery)

    def roll_back(self, gallery: str) -> Status:
        """Pin the gallery to the source again; both spaces stay. Raises GalleryNotFound, Conflict."""
        moves.turn(self._galleries, gallery, "rolled_back")
        return self.status(gallery)

    def finish(self, gallery: str, leave_behind: bool) -> Status:
        """After a cut-over: erase the source. Raises GalleryNotFound, Conflict (persons would be without faces)."""
        moves.end(self._galleries, gallery, finish=True, leave_behind=leave_behind)
        return self.status(gallery)

    def abandon(self, gallery: str, leave_behind: bool) -> None:
        """Before a cut-over, or after a roll back: erase the target. Raises as ``finish``."""
        moves.end(self._galleries, gallery, finish=False, leave_behind=leave_behind)

    def pending(self, gallery: str, cursor: str | None, limit: int) -> Page[Pending]:
        """Persons who are not in the target; nobody where there is no migration. Raises GalleryNotFound."""
        store = self._galleries.store
        migration = store.spaces.migration(store.gallery(gallery).key)
        return Page((), None) if migration is None else store.spaces.pending(migration, cursor, limit)
