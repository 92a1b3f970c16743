"""Metrics that are not counted as they happen, but looked up when they are asked for."""

from collections import Counter
from typing import Any

from service import __version__, metrics
from service.engines import Engines
from service.gallery.gallery import Galleries


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
        _sizes(galleries, engines)
        phases = Counter(migration.phase for _, migration in galleries.store.spaces.migrations())
        for phase in ("embedding", "cut_over", "rolled_back"):
            metrics.MIGRATIONS.labels(phase).set(phases[phase])


def _sizes(galleries: Galleries, engines: Engines) -> None:
    records = list(galleries.store.every_gallery())
    own = [record for record in records if engines.has(record.embedding_contract)]
    held = [galleries.held(record) for record in own]
    metrics.GALLERIES.labels("own").set(len(own))
    metrics.GALLERIES.labels("other").set(len(records) - len(own))
    metrics.PERSONS.set(sum(record.persons for record in records))
    metrics.FACES.set(sum(record.faces for record in records))
    metrics.LARGEST_GALLERY_FACES.set(max((record.faces for record in records), default=0))
    metrics.GALLERIES_LOADING.set(sum(not each.loaded for each in held))
    metrics.INDEX_LAG_FACES.set(sum(abs(record.faces - each.faces) for record, each in zip(own, held, strict=True)))
    metrics.INDEX_LAG_REVISIONS.set(max((each.behind for each in held), default=0))
