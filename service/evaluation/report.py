"""What an evaluation of verification leaves behind: figures of merit, every decision, calibration points, pictures.

::

    OUT/report.json        the figures, what they were measured on, and which model
    OUT/pairs.csv          one line per listed pair: its similarity, what was decided, whether that was right
    OUT/calibration.json   thresholds for false match rates, to be put into the bundle; where persons are labelled
    OUT/roc.png  det.png  angles.png
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.evaluation.bootstrap import TarAtFar, tar_at_fars
from service.evaluation.calibration import calibrate, require_model
from service.evaluation.comparisons import Comparisons, listed_pairs
from service.evaluation.figures import angle_figure, det_figure, roc_figure
from service.evaluation.folder import aligned, as_json, write_files
from service.evaluation.identities import FolderResult
from service.evaluation.metrics import CrossValidation, cross_validated_accuracy, equal_error_rate
from service.evaluation.photos import PhotoSet
from service.evaluation.verification import VerificationResult
from service.runtime.card import Calibration

# The rate whose threshold a picture of all pairs shows: what the service asks for unless told otherwise.
SHOWN_FMR = 1e-4


def write_report(
    result: VerificationResult, out: Path, model: Mapping[str, Any], components: int | None = None
) -> dict[str, Any]:
    """Write all files into ``out`` and return what ``report.json`` says.

    Each file appears whole or not at all, ``report.json`` last.

    Args:
        result: what running a protocol of listed pairs gave.
        out: a folder, made if it is not there; files of an earlier report are replaced.
        model: JSON-serialisable facts about what was measured, passed through. It has at least
            ``embedding_contract`` and ``detector``, the digests that a calibration is valid for.
        components: of a PCA whose figures are to stand beside; all else is without it.
    """
    require_model(model)
    # Before the calibration, which takes longer: it may find that there are too few photos.
    after_pca = None if components is None else result.similarity_after_pca(components)
    validation = _validate(result, result.similarity)
    comparisons = listed_pairs(result, validation.scores)
    tars = tar_at_fars(comparisons, comparisons.rates)
    calibration = None
    if result.labelled:
        dataset = f"{result.name}/{result.pairs_file.name}", result.pairs_sha256
        calibration = calibrate(result.photos, result.persons, dataset, model)
    report = {
        "dataset": {
            "name": result.name,
            "pairs": len(result.pairs),
            "photos": len(result.photos.names),
            "folds": len(validation.folds),
            "pairs_file": result.pairs_file.name,
            "pairs_sha256": result.pairs_sha256,
            "persons": len(np.unique(result.persons)),
            "persons_labelled": result.labelled,
        },
        **_accuracy(validation),
        **_rates(comparisons, tars),
        **({} if after_pca is None else {"pca": {"components": components, **_pca(result, after_pca)}}),
        "pairs_undetected": int(np.isinf(result.similarity).sum()),
        **_run(result.photos, model),
    }
    title = f"{result.name}, {len(result.pairs):,} pairs: accuracy {100 * report['accuracy']:.2f} %"
    threshold = float(np.median(validation.thresholds))
    files = {
        "pairs.csv": _pairs_csv(result, validation),
        **_calibration_file(calibration),
        **_pictures(comparisons, tars, threshold, title),
        "report.json": as_json(report),
    }
    write_files(out, files)
    return report


def write_folder_report(result: FolderResult, out: Path, model: Mapping[str, Any]) -> dict[str, Any]:
    """Like ``write_report``, for all pairs of a folder: no folds, no accuracy and no list of the pairs."""
    require_model(model)
    comparisons = result.comparisons
    tars = tar_at_fars(comparisons, comparisons.rates)
    calibration = calibrate(result.photos, result.persons, (result.name, result.sha256), model)
    report = {
        "dataset": {
            "name": result.name,
            "photos": len(result.photos.names),
            "persons": len(np.unique(result.persons)),
            "genuine": comparisons.genuine.size,
            "impostor": comparisons.impostors,
            "sha256": result.sha256,
        },
        **_rates(comparisons, tars),
        **_run(result.photos, model),
    }
    points = calibration.points if calibration else ()
    threshold = next((point.threshold for point in points if point.fmr == SHOWN_FMR), None)
    title = f"{result.name}: {comparisons.genuine.size:,} genuine, {comparisons.impostors:,} impostor pairs"
    files = {
        **_calibration_file(calibration),
        **_pictures(comparisons, tars, threshold, title),
        "report.json": as_json(report),
    }
    write_files(out, files)
    return report


def summary(report: Mapping[str, Any]) -> str:
    """The figures of a report as aligned lines for a terminal, without a newline at the end."""
    data = report["dataset"]
    lines: list[tuple[str, str]] = []
    if "pairs" in data:
        size = f"{data['pairs']} pairs, {data['photos']} photos, {data['folds']} folds"
        lines += [("dataset", f"{data['name']}, {size}"), *_accuracy_lines(report, "")]
    else:
        size = f"{data['photos']:,} photos of {data['persons']:,} persons"
        pairs = f"{data['genuine']:,} genuine and {data['impostor']:,} impostor pairs"
        lines += [("dataset", f"{data['name']}, {size}"), ("pairs", pairs)]
    lines += _rate_lines(report, "")
    if "pca" in report:
        note = f"{report['pca']['components']} components, fitted to {report['pca']['fitted_to']}"
        lines += [("PCA", note), *_accuracy_lines(report["pca"], "PCA "), *_rate_lines(report["pca"], "PCA ")]
    pairs = f", {report['pairs_undetected']} pairs" if "pairs_undetected" in report else ""
    return aligned(
        [
            *lines,
            ("undetected", f"{len(report['undetected_photos'])} photos{pairs}"),
            ("speed", f"{report['photos_per_second']:.1f} photos/s, {report['seconds']:.1f} s"),
        ]
    )


def _accuracy_lines(figures: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    thresholds = [fold["threshold"] for fold in figures["folds"]]
    spread = f"± {100 * figures['accuracy_std']:.2f} % over the folds"
    return [
        (f"{prefix}accuracy", f"{100 * figures['accuracy']:.2f} % {spread}"),
        (
            f"{prefix}threshold",
            f"{min(thresholds):.4f} to {max(thresholds):.4f}, from the {figures['thresholds_from']}",
        ),
    ]


def _rate_lines(figures: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    rates = [
        (
            f"{prefix}TAR at FAR {at['far']:.0e}".replace("e-0", "e-"),
            f"{100 * at['tar']:.2f} %, 95 % interval {100 * at['low']:.2f} % to {100 * at['high']:.2f} %",
        )
        for at in figures["tar_at_far"]
    ]
    return [*rates, (f"{prefix}EER", f"{100 * figures['eer']:.2f} %")]


def _validate(result: VerificationResult, scores: NDArray[np.float64]) -> CrossValidation:
    return cross_validated_accuracy(scores, result.genuine, result.folds, np.isfinite(result.similarity))


def _accuracy(validation: CrossValidation) -> dict[str, Any]:
    return {
        "accuracy": float(validation.accuracy.mean()),
        "accuracy_std": float(validation.accuracy.std()),
        "thresholds_from": "other folds" if len(validation.folds) > 1 else "same pairs, so optimistic",
        "folds": [
            {"fold": int(fold), "accuracy": float(accuracy), "threshold": float(threshold)}
            for fold, accuracy, threshold in zip(
                validation.folds, validation.accuracy, validation.thresholds, strict=True
            )
        ],
    }


def _rates(comparisons: Comparisons, tars: Sequence[TarAtFar]) -> dict[str, Any]:
    return {
        "tar_at_far": [asdict(point) for point in tars],
        "eer": equal_error_rate(comparisons.genuine, comparisons.impostor, comparisons.stand_for),
    }


def _pca(result: VerificationResult, scores: NDArray[np.float64]) -> dict[str, Any]:
    validation = _validate(result, scores)
    comparisons = listed_pairs(result, validation.scores)
    return {
        "fitted_to": "the photos of the other folds",
        **_accuracy(validation),
        **_rates(comparisons, tar_at_fars(comparisons, comparisons.rates)),
    }


def _run(photos: PhotoSet, model: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "undetected_photos": photos.undetected,
        "seconds": photos.seconds,
        "photos_per_second": len(photos.names) / photos.seconds,
        "model": dict(model),
    }


def _calibration_file(calibration: Calibration | None) -> dict[str, bytes]:
    return {"calibration.json": as_json(calibration.model_dump(mode="json"))} if calibration else {}


def _pictures(
    comparisons: Comparisons, tars: Sequence[TarAtFar], threshold: float | None, title: str
) -> dict[str, bytes]:
    return {
        "roc.png": roc_figure(comparisons, tars, title),
        "det.png": det_figure(comparisons, title),
        "angles.png": angle_figure(comparisons, threshold, title),
    }


def _pairs_csv(result: VerificationResult, validation: CrossValidation) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["fold", "first", "second", "genuine", "similarity", "decided", "correct"])
    for pair, similarity, accepted, correct in zip(
        result.pairs, result.similarity, validation.accepted, validation.correct, strict=True
    ):
        compared = bool(np.isfinite(similarity))
        outcome = (repr(float(similarity)), _word(accepted)) if compared else ("", "")
        writer.writerow((pair.fold, pair.first, pair.second, _word(pair.genuine), *outcome, _word(correct)))
    return text.getvalue().encode()


def _word(value: object) -> str:
    return "true" if value else "false"
