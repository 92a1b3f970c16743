"""Galleries on their way from one embedding space to another: each step in the store and in memory."""

from service.errors import Conflict, Unavailable
from service.gallery.gallery import Galleries
from service.gallery.moving import MovingSearcher, Noted
from service.gallery.records import Templates
from service.gallery.searcher import Searcher
from service.gallery.segment import Segment
from service.gallery.segment_searcher import SegmentSearcher
from service.gallery.spaces import Migration, Phase


def begin(galleries: Galleries, gallery: str, contract: str, dimension: int, crops_fit: bool) -> Migration:
    """See ``SpaceStore.begin``."""
    if not galleries.moves:
        raise Conflict(
            "Galleries in PostgreSQL cannot be moved to another bundle yet; those of the embedded store can."
        )
    with galleries.replacing(gallery) as (record, opened, _):
        migration = galleries.store.spaces.begin(gallery, contract, dimension, crops_fit)
        if isinstance(opened, MovingSearcher):
            opened.turned()  # after a roll back
            return migration
        assert isinstance(opened, SegmentSearcher)
        segments = {
            migration.source.contract: opened.segment,
            migration.target.contract: Segment(dimension, galleries.device),
        }
        moving = MovingSearcher(galleries.store, migration, segments)
        moving.load(lambda _: None)
        galleries.replace(record.key, moving)
        return migration


def turn(galleries: Galleries, gallery: str, phase: Phase) -> Migration:
    """See ``SpaceStore.turn``."""
    with galleries.replacing(gallery) as (_, opened, _):
        _require_both(galleries, gallery, opened)
        migration = galleries.store.spaces.turn(gallery, phase)
        assert isinstance(opened, MovingSearcher)
        opened.turned()
        return migration


def end(galleries: Galleries, gallery: str, finish: bool, leave_behind: bool) -> None:
    """Keep the pinned space, and erase the other one; see ``SpaceStore.begin_discarding``. Of one there is nothing to
    erase."""
    key = galleries.store.gallery(gallery).key
    if galleries.store.spaces.migration(key) is None:
        # What an error has left of it the last time.
        galleries.store.spaces.discard(key)
        return
    with galleries.replacing(gallery) as (record, opened, _):
        _require_both(galleries, gallery, opened)
        migration = galleries.store.spaces.begin_discarding(gallery, finish, leave_behind)
        assert isinstance(opened, MovingSearcher)
        kept = opened.segments[migration.pinned.contract]
        galleries.replace(record.key, SegmentSearcher(kept, galleries.store, record.key, loaded=True))
    galleries.store.spaces.discard(record.key)


def add_embedded(galleries: Galleries, gallery: str, migration: Migration, embedded: Templates) -> int:
    """Templates in the target of faces that are in the source, as far as these are still there; how many."""
    with galleries.replacing(gallery) as (record, _, changed):
        if record.key != migration.gallery_key:  # deleted and made anew
            return 0
        fresh = galleries.store.spaces.add_embedded(gallery, migration.target.contract, embedded)
        assert isinstance(changed, Noted)
        changed.note(fresh.faces, fresh.persons, migration.target.contract)
        return len(fresh.faces)


def _require_both(galleries: Galleries, gallery: str, opened: Searcher) -> None:
    """Raises Unavailable: the store has a second space, and no memory was found for it when it was begun."""
    moving = galleries.store.spaces.migration(galleries.store.gallery(gallery).key) is not None
    if moving and not isinstance(opened, MovingSearcher):
        raise Unavailable(f"The second space of gallery {gallery!r} is not in memory. Begin the migration again.")
