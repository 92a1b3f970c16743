"""What the service counts and times about itself; ``GET /metrics`` prints it for Prometheus.

Times are in seconds. Waiting and computing are never added up: ``…_wait_seconds`` is time in a queue,
``…_run_seconds`` and ``stage_seconds`` time at work.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from service import tracing

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

# From a cached search to a photo of fifty megapixels, each bound some 1.6 times the one before.
_SECONDS = (
    *(0.0005, 0.001, 0.0016, 0.0025, 0.004, 0.0063, 0.01, 0.016, 0.025, 0.04, 0.063),
    *(0.1, 0.16, 0.25, 0.4, 0.63, 1.0, 1.6, 2.5, 4.0, 6.3, 10.0, 30.0),
)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_COSINES = tuple(hundredths / 100 for hundredths in range(-20, 100, 5))

REQUESTS = Counter("likeness_requests", "Answered requests.", ["route", "code"], registry=REGISTRY)
REQUEST_SECONDS = Histogram(
    "likeness_request_seconds",
    "From the request's head to the end of its answer, the upload included.",
    ["route"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
STAGE_SECONDS = Histogram(
    "likeness_stage_seconds",
    "Stages of the work: decode, detect, align, embed, search. Waiting for a batch is in detect and embed.",
    ["stage"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
QUEUE_WAIT_SECONDS = Histogram(
    "likeness_queue_wait_seconds",
    "Time that work waited for a thread.",
    ["queue"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
QUEUE_LENGTH = Gauge("likeness_queue_length", "Pieces of work that wait for a thread.", ["queue"], registry=REGISTRY)
REFUSED = Counter(
    "likeness_refused",
    "Work that was not done: overloaded, rate_limited, deadline_exceeded, caller_left.",
    ["reason"],
    registry=REGISTRY,
)
BATCH_WAIT_SECONDS = Histogram(
    "likeness_batch_wait_seconds",
    "Time that an input waited for its batch to start.",
    ["batcher"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
BATCH_RUN_SECONDS = Histogram(
    "likeness_batch_run_seconds", "Time that a batch took.", ["batcher"], buckets=_SECONDS, registry=REGISTRY
)
BATCH_SIZE = Histogram("likeness_batch_size", "Inputs in a batch.", ["batcher"], buckets=_SIZES, registry=REGISTRY)
HELD_BYTES = Gauge("likeness_held_bytes", "Request bodies in memory.", registry=REGISTRY)

# How alike what is compared is. When these move, the cameras, the light, the people or the bundle have changed.
VERIFY_SIMILARITY = Histogram(
    "likeness_verify_similarity",
    "Cosine of two faces that were compared, by decision: match, no_match.",
    ["decision"],
    buckets=_COSINES,
    registry=REGISTRY,
)
SEARCH_SIMILARITY = Histogram(
    "likeness_search_similarity",
    "Cosine of a probe and its best candidate, by decision: identified, unknown.",
    ["decision"],
    buckets=_COSINES,
    registry=REGISTRY,
)

# Known when they are asked for: see service.api.figures.
INFO = Gauge(
    "likeness_info",
    "What runs here, a line for each bundle; always 1.",
    ["version", "bundle", "bundle_version", "embedding_contract", "detector", "embedder", "search"],
    registry=REGISTRY,
)
READY = Gauge("likeness_ready", "1 when /v1/health/ready says 200.", registry=REGISTRY)
GALLERIES = Gauge(
    "likeness_galleries",
    "Galleries, by the contract of their templates: own of a bundle that is loaded, other of another one.",
    ["contract"],
    registry=REGISTRY,
)
PERSONS = Gauge("likeness_persons", "Persons in all galleries.", registry=REGISTRY)
FACES = Gauge("likeness_faces", "Enrolled faces in all galleries.", registry=REGISTRY)
# A label for each gallery would be a time series for each, and its id in a system that keeps it.
LARGEST_GALLERY_FACES = Gauge("likeness_largest_gallery_faces", "Faces of the largest gallery.", registry=REGISTRY)
GALLERIES_LOADING = Gauge("likeness_galleries_loading", "Galleries that cannot be searched yet.", registry=REGISTRY)
MIGRATIONS = Gauge(
    "likeness_migrations", "Galleries that are moved to another bundle, by phase.", ["phase"], registry=REGISTRY
)
REEMBEDDED = Counter(
    "likeness_migration_faces", "Faces embedded under the new contract of their gallery.", registry=REGISTRY
)
INDEX_LAG_FACES = Gauge(
    "likeness_index_lag_faces",
    "Faces that the store has and searches do not see, or the other way round.",
    registry=REGISTRY,
)
INDEX_LAG_REVISIONS = Gauge(
    "likeness_index_lag_revisions",
    "Changes of a gallery that its index in this process has not seen yet, of the one furthest behind.",
    registry=REGISTRY,
)
SEARCHES = Counter(
    "likeness_searches",
    "Probes searched for: in memory or in the database, exact or through an index.",
    ["place", "method"],
    registry=REGISTRY,
)

_STAGES = {name: STAGE_SECONDS.labels(name) for name in ("decode", "detect", "align", "embed", "search")}


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Time one stage of the work, also when it fails; where there are traces, it is a span."""
    start = time.perf_counter()
    try:
        with tracing.span(name):
            yield
    finally:
        _STAGES[name].observe(time.perf_counter() - start)


def text() -> bytes:
    """Everything in Prometheus' text format."""
    return bytes(generate_latest(REGISTRY))
