"""Metrics that are not counted as they happen, but looked up when they are asked for."""

import threading
import time
from collections import Counter
from typing import Any

from service import __version__, metrics
from service.engines import Engines
from service.gallery.gallery import Galleries

# Up to so many galleries are counted each time, which takes some 20 ms; more, only when the figures are so old.
ALWAYS = 1000
LASTING_S = 60.0


class GallerySizes:
    """How many galleries, persons and faces there are, and how far the index is behind."""

    def __init__(self, galleries: Galleries, engines: Engines) -> None:
        self._galleries, self._engines = galleries, engines
        self._counting = threading.Lock()
        self._last_until = 0.0

    def refresh(self) -> None:
        """Count anew, unless there are many and it was done a moment ago."""
        with self._counting:
            if time.monotonic() < self._last_until:
                return
            if self._count() > ALWAYS:
                self._last_until = time.monotonic() + LASTING_S

    def _count(self) -> int:
        """Returns how many galleries there are."""
        records = list(self._galleries.store.every_gallery())
        own = [record for record in records if self._engines.has(record.embedding_contract)]
        held = [self._galleries.held(record) for record in own]
        lag = sum(abs(record.faces - each.faces) for record, each in zip(own, held, strict=True))
        metrics.GALLERIES.labels("own").set(len(own))
        metrics.GALLERIES.labels("other").set(len(records) - len(own))
        metrics.PERSONS.set(sum(record.persons for record in records))
        metrics.FACES.set(sum(record.faces for record in records))
        metrics.LARGEST_GALLERY_FACES.set(max((record.faces for record in records), default=0))
        metrics.GALLERIES_LOADING.set(sum(not each.loaded for each in held))
        metrics.INDEX_LAG_FACES.set(lag)
        metrics.INDEX_LAG_REVISIONS.set(max((each.behind for each in held), default=0))
        return len(records)


def refresh(state: Any) -> None:
    """Bring them up to date; ``state`` is the application's."""
    engines: Engines = state.engines
    galleries: Galleries | None = state.galleries
    # One registry for the process, which in tests has had other applications.
    metrics.INFO.clear()
    for engine in engines.loaded():
        metrics.INFO.labels(
            __version__,
            engine.card.name,
            engine.card.version,
            engine.contract[:16],
            *engine.providers,
            "" if galleries is None else galleries.device,
        ).set(1)
    metrics.READY.set(state.ready and not state.draining)
    if galleries is not None:
        state.gallery_sizes.refresh()
        phases = Counter(migration.phase for _, migration in galleries.store.spaces.migrations())
        for phase in ("embedding", "cut_over", "rolled_back"):
            metrics.MIGRATIONS.labels(phase).set(phases[phase])
