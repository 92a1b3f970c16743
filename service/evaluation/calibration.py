"""From a labelled set of photos to the operating points that a bundle serves by.

All pairs among the photos in which a face was found count, not only those that a protocol lists: two photos of one
person are genuine, of two persons impostor. Labels are used as published.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.evaluation.dyads import Floats, Integers, Rates, genuine_rates, impostor_rates, thresholds_at
from service.evaluation.of_mean import measure_of_mean
from service.evaluation.operating_points import RULE_OF_3, count_pairs, person_tiles
from service.evaluation.photos import PhotoSet
from service.evaluation.tail import Exceedances, fit_tail
from service.runtime.card import Calibration, OperatingPoint, Tail

# Without these a calibration could be put to use with a model that it was not measured on.
MODEL_KEYS = ("embedding_contract", "detector")
PER_DECADE = 10
# Ten points a decade, from 0.1 down to what 3·10⁹ impostor pairs could speak about.
CURVE_FMRS = tuple(10 ** (-1 - k / PER_DECADE) for k in range(8 * PER_DECADE + 1))
# How far a fitted tail is followed below the last measured point, and in what steps.
TAIL_DECADES, TAIL_PER_DECADE = 4, 5
# The tail begins where it has so many exceedances: fewer are too uncertain, more are not tail any more.
TAIL_EXCEEDANCES, FEWEST_EXCEEDANCES, LARGEST_TAIL_FMR = 5000, 100, 1e-3
# Thresholds of these rates are what searches use.
SEARCH_FMRS = (1e-3, 1e-5)


def require_model(model: Mapping[str, Any]) -> None:
    """Raises ValueError where the digests that a calibration is valid for are not there."""
    absent = [key for key in MODEL_KEYS if not model.get(key)]
    if absent:
        raise ValueError(f"the model mapping must name {' and '.join(absent)}, which a calibration is valid for")


def calibrate(
    photos: PhotoSet, persons: Integers, dataset: tuple[str, str], model: Mapping[str, Any]
) -> Calibration | None:
    """None where there are too few pairs for two operating points.

    Args:
        persons: (p,) the same number for photos of the same person.
        dataset: its name and its sha256.
        model: has ``embedding_contract`` and ``detector``.
    """
    there = photos.detected
    norms = None if photos.feature_norms is None else photos.feature_norms[there]
    return calibrate_embeddings(photos.embeddings[there], persons[there], dataset, model, norms)


def calibrate_embeddings(
    embeddings: NDArray[np.float32],
    persons: Integers,
    dataset: tuple[str, str],
    model: Mapping[str, Any],
    feature_norms: Floats | None = None,
) -> Calibration | None:
    """See ``calibrate``.

    The curve ends with the last rate about which the data can speak: 3 errors or more among as many independent
    comparisons as they are worth (see ``dyads``), the rule of 3 of ISO/IEC 19795-1.
    """
    genuine_pairs, impostor_pairs = count_pairs(persons)
    people = len(np.unique(persons))
    fmrs = np.array([fmr for fmr in CURVE_FMRS if fmr * people * (people - 1) / 2 >= RULE_OF_3])
    if len(fmrs) < 2:
        return None
    thresholds = thresholds_at(embeddings, persons, fmrs)
    impostor = impostor_rates(embeddings, persons, thresholds)
    mute = np.flatnonzero(fmrs * impostor.effective < RULE_OF_3)
    kept = int(mute[0]) if mute.size else len(fmrs)
    if kept < 2:
        return None
    genuine = genuine_rates(embeddings, persons, thresholds)
    points = [_point(fmrs[k], thresholds[k], impostor, genuine, k) for k in range(kept)]
    name, digest = dataset
    search = [point.threshold for point in points if SEARCH_FMRS[1] <= point.fmr <= SEARCH_FMRS[0]]
    figures = Calibration.model_construct(
        embedding_contract=model["embedding_contract"],
        detector=model["detector"],
        dataset=name,
        dataset_sha256=digest,
        persons=people,
        photos=len(embeddings),
        genuine=genuine_pairs,
        impostor=impostor_pairs,
        effective_impostor=float(impostor.effective[kept - 1]),
        points=tuple(points),
        of_mean=measure_of_mean(embeddings, persons, np.array(search)) if search else None,
        tail=_tail(embeddings, persons, points),
        feature_norm=_median(feature_norms),
    )
    return Calibration(calibration_id=figures.digest(), **dict(figures))


def exceedances(embeddings: NDArray[np.float32], persons: Integers, threshold: float) -> Exceedances:
    """All impostor pairs with a score at or above ``threshold``."""
    _, persons, photos = np.unique(persons, return_inverse=True, return_counts=True)
    scores, pairs = [], []
    for tile in person_tiles(embeddings, persons):
        rows, columns = np.nonzero(tile.impostor & (tile.scores >= threshold))
        scores.append(tile.scores[rows, columns].astype(np.float64))
        pairs.append(np.stack([persons[tile.rows[rows]], persons[tile.columns[columns]]]))
    both = np.concatenate(pairs, axis=1)
    return Exceedances(threshold, np.concatenate(scores), both, 1 / photos[both].prod(axis=0), len(photos))


def _tail(embeddings: NDArray[np.float32], persons: Integers, points: list[OperatingPoint]) -> Tail | None:
    """From the strictest point with enough exceedances; None where even the laxest has too few."""
    people = len(np.unique(persons))
    starts = [point for point in points if point.fmr <= LARGEST_TAIL_FMR]
    enough = [point for point in starts if point.fmr * people * (people - 1) / 2 >= TAIL_EXCEEDANCES]
    if not starts:
        return None
    found = exceedances(embeddings, persons, (enough[-1] if enough else starts[0]).threshold)
    if len(found.scores) < FEWEST_EXCEEDANCES:
        return None
    fit = fit_tail(found)
    steps = np.arange(1, TAIL_DECADES * TAIL_PER_DECADE + 1)
    fmrs = points[-1].fmr * 10.0 ** (-steps / TAIL_PER_DECADE)
    # The curve goes on from where the counted part ends; label errors may have pushed that above the fit.
    thresholds = np.clip([fit.threshold_at(fmr) for fmr in fmrs], points[-1].threshold, 1.0)
    genuine = genuine_rates(embeddings, persons, thresholds)
    ends = [fit.interval_at(threshold) for threshold in thresholds]
    return Tail(
        start_fmr=float(fit.fmr[0]),
        start_threshold=fit.threshold,
        shape=float(fit.shape[0]),
        scale=float(fit.scale[0]),
        exceedances=fit.exceedances,
        points=tuple(
            OperatingPoint(
                fmr=fmr,
                threshold=threshold,
                fnmr=float(genuine.rate[k]),
                fmr_low=min(ends[k][0], fmr),
                fmr_high=max(ends[k][1], fmr),
                fnmr_low=float(genuine.low[k]),
                fnmr_high=float(genuine.high[k]),
            )
            for k, (fmr, threshold) in enumerate(zip(fmrs.tolist(), thresholds.tolist(), strict=True))
        ),
    )


def _median(feature_norms: Floats | None) -> float | None:
    if feature_norms is None or np.isnan(feature_norms).all():
        return None
    return float(np.nanmedian(feature_norms))


def _point(fmr: float, threshold: float, impostor: Rates, genuine: Rates, k: int) -> OperatingPoint:
    return OperatingPoint(
        fmr=float(fmr),
        threshold=float(threshold),
        fnmr=float(genuine.rate[k]),
        fmr_low=float(impostor.low[k]),
        fmr_high=float(impostor.high[k]),
        fnmr_low=float(genuine.low[k]),
        fnmr_high=float(genuine.high[k]),
    )
