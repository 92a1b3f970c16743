"""Operating points: the threshold for each false match rate, from all pairs of a labelled set of photos.

Unlike a protocol's few thousand pairs, n photos give about n²/2 impostor comparisons, enough to measure rates
of 1e-6. They share photos and persons, so they are not independent, and the rates are less certain than their
number suggests.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidRequest
from service.evaluation.metrics import most_errors

CALIBRATION_FMRS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6)

# With no error in N independent trials, the true rate is below 3 / N with 95 % confidence (ISO/IEC 19795-1).
RULE_OF_3 = 3


@dataclass(frozen=True)
class OperatingPoint:
    """The threshold that keeps the measured FMR at or below ``fmr``, and the FNMR that it costs."""

    fmr: float
    threshold: float
    fnmr: float
    false_matches: int
    false_non_matches: int


@dataclass(frozen=True)
class OperatingPoints:
    """Points by falling ``fmr``, with the numbers of comparisons, persons and photos that they rest on."""

    points: tuple[OperatingPoint, ...]
    genuine: int
    impostors: int
    persons: int
    photos: int


def operating_points(
    embeddings: NDArray[np.float32],
    identities: NDArray[np.integer[Any]],
    fmrs: Sequence[float] = CALIBRATION_FMRS,
    block: int = 1024,
) -> OperatingPoints:
    """Thresholds for false match rates, from all pairs of photos: of one person, genuine; of two, impostor.

    For each rate the threshold is the smallest float32 t at which the number of impostors with score >= t is
    at most fmr × N, N being the number of impostor pairs; FNMR is the share of genuine pairs below t. Rates
    under 3 / N are dropped, as the data cannot speak about them (rule of 3, ISO/IEC 19795-1).

    Scores are made in tiles of ``block`` × ``block``. Memory holds one tile, all genuine scores and a few
    times fmr × N impostor scores for the largest fmr, however many photos there are.

    Args:
        embeddings: (n, d) float32, rows of unit length.
        identities: (n,) the same number for photos of the same person.
        fmrs: each above 0 and below 1.
    """
    _check(embeddings, identities, fmrs)
    n_genuine, n_impostors = count_pairs(identities)
    rates = sorted((fmr for fmr in set(fmrs) if fmr >= RULE_OF_3 / n_impostors), reverse=True)
    permitted = [most_errors(fmr, n_impostors) for fmr in rates]
    keep = max(permitted, default=0) + 1  # the first one too many sets the threshold
    genuine, highest = _compare_all(embeddings, identities, keep, block)
    points = tuple(_point(fmr, m, genuine, highest) for fmr, m in zip(rates, permitted, strict=True))
    return OperatingPoints(points, n_genuine, n_impostors, len(np.unique(identities)), len(embeddings))


def count_pairs(identities: NDArray[np.integer[Any]]) -> tuple[int, int]:
    """How many pairs of photos are of one person, and how many of two.

    Args:
        identities: (n,) the same number for photos of the same person.

    Raises:
        InvalidRequest: there is no pair of either kind.
    """
    photos_of = np.unique(identities, return_counts=True)[1]
    genuine = int((photos_of * (photos_of - 1) // 2).sum())
    impostors = len(identities) * (len(identities) - 1) // 2 - genuine
    if not genuine or not impostors:
        raise InvalidRequest(
            f"{len(identities)} photos of {len(photos_of)} persons give {genuine} genuine comparisons and "
            f"{impostors} impostor comparisons; bring two persons at least, one of them with two photos"
        )
    return genuine, impostors


@dataclass(frozen=True, eq=False)
class Tile:
    """The photos ``rows`` against the photos ``columns``: three arrays (rows, columns).

    ``scores`` are float32; ``genuine`` and ``impostor`` bool, both False where the pair is in another place, too.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    scores: NDArray[np.float32]
    genuine: NDArray[np.bool_]
    impostor: NDArray[np.bool_]


def tiles(embeddings: NDArray[np.float32], identities: NDArray[np.integer[Any]], block: int = 1024) -> Iterator[Tile]:
    """All pairs of photos, each once, in tiles of ``block`` × ``block``."""
    blocks = [np.arange(start, min(start + block, len(embeddings))) for start in range(0, len(embeddings), block)]
    return _tiles(embeddings, identities, blocks)


def person_tiles(
    embeddings: NDArray[np.float32], identities: NDArray[np.integer[Any]], block: int = 1024
) -> Iterator[Tile]:
    """The same in tiles of whole persons, ``block`` photos on a side or one person's, if those are more: all pairs of
    two persons' photos are in one tile."""
    order = np.argsort(identities, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(identities[order])) + 1, len(order))
    blocks, start = [], 0
    while start < len(order):
        fit = ends[np.searchsorted(ends, start + block, "right") - 1]
        stop = fit if fit > start else ends[np.searchsorted(ends, start, "right")]
        blocks.append(order[start:stop])
        start = stop
    return _tiles(embeddings, identities, blocks)


def _tiles(
    embeddings: NDArray[np.float32], identities: NDArray[np.integer[Any]], blocks: Sequence[NDArray[np.int64]]
) -> Iterator[Tile]:
    for k, rows in enumerate(blocks):
        for columns in blocks[k:]:
            same = identities[rows, None] == identities[None, columns]
            once = np.ones_like(same) if columns is not rows else np.triu(np.ones_like(same), 1)
            yield Tile(rows, columns, embeddings[rows] @ embeddings[columns].T, same & once, ~same & once)


def _check(embeddings: NDArray[np.float32], identities: NDArray[np.integer[Any]], fmrs: Sequence[float]) -> None:
    if embeddings.dtype != np.float32 or embeddings.ndim != 2 or identities.shape != (len(embeddings),):
        shapes = f"{embeddings.dtype} {embeddings.shape} and {identities.shape}"
        raise ValueError(f"embeddings must be float32 (n, d) and identities (n,), not {shapes}")
    lengths = np.linalg.norm(embeddings, axis=1)
    if not (np.abs(lengths - 1) < 1e-3).all():
        raise ValueError(f"embeddings must have unit length; theirs are {lengths.min()} to {lengths.max()}")
    for fmr in fmrs:
        if not 0 < fmr < 1:
            raise InvalidRequest(f"there is no operating point at an FMR of {fmr}; ask for one above 0, below 1")


def _compare_all(
    embeddings: NDArray[np.float32], identities: NDArray[np.integer[Any]], keep: int, block: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """All genuine scores and the ``keep`` highest impostor scores, both ascending, over pairs i < j."""
    genuine: list[NDArray[np.float32]] = []
    highest = _Highest(keep, slack=block * block)
    for tile in tiles(embeddings, identities, block):
        genuine.append(tile.scores[tile.genuine])
        highest.add(tile.scores[tile.impostor & (tile.scores > highest.floor)])
    return np.sort(np.concatenate(genuine)), highest.ascending()


class _Highest:
    """The ``keep`` highest of the values added so far; nothing at or below ``floor`` can be one of them."""

    def __init__(self, keep: int, slack: int) -> None:
        self.floor = np.float32(-np.inf)
        self._keep = keep
        # Weeding out costs a pass over all that is kept, so it waits until about as much has come in again.
        self._limit = 2 * keep + slack
        self._parts: list[NDArray[np.float32]] = []
        self._size = 0

    def add(self, values: NDArray[np.float32]) -> None:
        self._parts.append(values)
        self._size += values.size
        if self._size > self._limit:
            self._weed_out()

    def ascending(self) -> NDArray[np.float32]:
        self._weed_out()
        return np.sort(np.concatenate(self._parts))

    def _weed_out(self) -> None:
        values = np.concatenate(self._parts)
        if values.size > self._keep:
            # A copy: a slice would keep the whole array alive.
            values = np.partition(values, values.size - self._keep)[-self._keep :].copy()
            self.floor = values[0]
        self._parts, self._size = [values], values.size


def _point(fmr: float, permitted: int, genuine: NDArray[np.float32], highest: NDArray[np.float32]) -> OperatingPoint:
    threshold = np.nextafter(highest[-1 - permitted], np.float32(np.inf))
    below = int(np.searchsorted(genuine, threshold, "left"))
    false_matches = highest.size - int(np.searchsorted(highest, threshold, "left"))
    return OperatingPoint(fmr, float(threshold), below / genuine.size, false_matches, below)
