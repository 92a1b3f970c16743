"""Embeds the crops that were kept under the new contract, behind the back of the requests.

What is left to do is what the store lacks: a service that was killed goes on where it was.
"""

import logging
import time
from collections.abc import Callable

import numpy as np

from service import metrics
from service.engines import Engines
from service.errors import Conflict, GalleryNotFound, ModelMismatch, NotReady
from service.gallery import moves
from service.gallery.gallery import Galleries
from service.gallery.records import Templates
from service.gallery.spaces import Migration
from service.runtime.caller import Caller, work_for

log = logging.getLogger(__name__)

# Faces that are made durable together, and that go through the network together.
STEP, BATCH = 32, 4
# While requests are being worked on, so many times as long as it has worked it rests: it takes a fifth of a core then.
RESTS = 4
LONGEST_REST_S = 1.0
# A gallery without a face that waits is looked at again after so long.
LOOK_AGAIN_S = 10.0


class Reembedding:
    """Not thread-safe: one ``step`` at a time."""

    def __init__(self, engines: Engines, galleries: Galleries, busy: Callable[[], bool]) -> None:
        """
        Args:
            busy: whether requests are being worked on.
        """
        self._engines, self._galleries, self._busy = engines, galleries, busy
        self._after: dict[int, int] = {}
        self._resting: dict[int, float] = {}

    def step(self) -> bool:
        """Embed some faces of each gallery that moves; whether there were any."""
        work_for(Caller("migration"))
        found = False
        for gallery, migration in self._galleries.store.spaces.migrations():
            if self._due(migration):
                found = self._some(gallery, migration) or found
        return found

    def _due(self, migration: Migration) -> bool:
        moving = migration.phase in ("embedding", "cut_over") and migration.crops_fit
        rests = self._resting.get(migration.gallery_key, 0.0) > time.monotonic()
        return moving and not rests and self._engines.has(migration.target.contract)

    def _some(self, gallery: str, migration: Migration) -> bool:
        key, store = migration.gallery_key, self._galleries.store
        try:
            self._galleries.contracts(gallery)
        except (GalleryNotFound, ModelMismatch, NotReady):
            # Deleted, not served here, or still being loaded: not embedded for nothing, and in nobody's way.
            self._resting[key] = time.monotonic() + LOOK_AGAIN_S
            return False
        crops, after = store.spaces.crops_to_embed(migration, self._after.get(key, 0), STEP)
        # At the end from the beginning again: a face may have come that was in the source only.
        self._after[key] = after or 0
        if after is None:
            self._resting[key] = time.monotonic() + LOOK_AGAIN_S
            return False
        engine = self._engines.of(migration.target.contract)
        parts = [np.zeros((0, migration.target.dimension), np.float32)]
        for start in range(0, len(crops), BATCH):
            began = time.perf_counter()
            parts.append(engine.recognizer.embed_crops([crop for _, _, crop in crops[start : start + BATCH]])[0])
            if self._busy():
                time.sleep(min(RESTS * (time.perf_counter() - began), LONGEST_REST_S))
        faces, persons = (np.array([row[column] for row in crops], np.int64) for column in (0, 1))
        try:
            made = moves.add_embedded(
                self._galleries, gallery, migration, Templates(faces, persons, np.concatenate(parts))
            )
        except (GalleryNotFound, Conflict, NotReady):
            # Deleted, ended or still being loaded: nothing is lost.
            self._after[key] = 0
            self._resting[key] = time.monotonic() + 1.0
            return False
        metrics.REEMBEDDED.inc(made)
        return True
