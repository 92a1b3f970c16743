"""Metrics that are not counted as they happen, but looked up when they are asked for."""

from typing import Any

from service import __version__, metrics
from service.engine import Engine
from service.gallery.gallery import Galleries


def refresh(state: Any) -> None:
    """Bring them up to date; ``state`` is the application's."""
    engine: Engine = state.engine
    galleries: Galleries | None = state.galleries
    card = engine.card
    # One registry for the process, which in tests has had other applications.
    metrics.INFO.clear()
    metrics.INFO.labels(
        __version__,
        card.name,
        card.version,
        card.embedding_contract[:16],
        *engine.providers,
        "" if galleries is None else galleries.device,
    ).set(1)
    metrics.READY.set(state.ready and not state.draining)
    if galleries is not None:
        _sizes(galleries, card.embedding_contract)


def _sizes(galleries: Galleries, contract: str) -> None:
    records = list(galleries.store.every_gallery())
    own = [record for record in records if record.embedding_contract == contract]
    held = [galleries.held(record) for record in own]
    metrics.GALLERIES.labels("own").set(len(own))
    metrics.GALLERIES.labels("other").set(len(records) - len(own))
    metrics.PERSONS.set(sum(record.persons for record in records))
    metrics.FACES.set(sum(record.faces for record in records))
    metrics.LARGEST_GALLERY_FACES.set(max((record.faces for record in records), default=0))
    metrics.GALLERIES_LOADING.set(sum(not each.loaded for each in held))
    metrics.INDEX_LAG_FACES.set(sum(abs(record.faces - each.faces) for record, each in zip(own, held, strict=True)))
    metrics.INDEX_LAG_REVISIONS.set(max((each.behind for each in held), default=0))
