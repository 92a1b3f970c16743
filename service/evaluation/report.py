"""What an evaluation leaves behind: figures of merit, every decision, calibration points and two pictures.

::

    OUT/report.json        the figures, what they were measured on, and which model
    OUT/pairs.csv          one line per pair: its similarity, what was decided, whether that was right
    OUT/calibration.json   thresholds for false match rates, to be put into the bundle
    OUT/roc.png  scores.png
"""

import csv
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidRequest
from service.evaluation.figures import roc_figure, score_histogram
from service.evaluation.lfw import LfwResult
from service.evaluation.metrics import (
    CrossValidation,
    cross_validated_accuracy,
    equal_error_rate,
    tar_at_far,
)
from service.evaluation.operating_points import operating_points
from service.runtime.card import Calibration, OperatingPoint

DATASET = "lfw"
TAR_AT = {"1e-2": 1e-2, "1e-3": 1e-3}

# Without these a calibration could be put to use with a model that it was not measured on.
MODEL_KEYS = ("embedding_contract", "detector")


def write_report(result: LfwResult, out: Path, model: Mapping[str, Any]) -> dict[str, Any]:
    """Write all five files into ``out`` and return what ``report.json`` says.

    Each file appears whole or not at all, ``report.json`` last.

    Args:
        result: what running the protocol gave.
        out: a folder, made if it is not there; files of an earlier report are replaced.
        model: JSON-serialisable facts about what was measured, passed through. It has at least
            ``embedding_contract`` and ``detector``, the digests that a calibration is valid for.
    """
    absent = [key for key in MODEL_KEYS if not model.get(key)]
    if absent:
        raise ValueError(f"the model mapping must name {' and '.join(absent)}, which a calibration is valid for")
    labels = np.array([pair.genuine for pair in result.pairs])
    folds = np.array([pair.fold for pair in result.pairs])
    validation = cross_validated_accuracy(result.similarity, labels, folds, np.isfinite(result.similarity))
    report = _figures_of_merit(result, labels, validation, model)
    genuine, impostor = result.similarity[labels], result.similarity[~labels]
    title = f"LFW, {len(labels):,} pairs: accuracy {100 * report['accuracy']:.2f} %"
    threshold = float(np.median(validation.thresholds))
    calibration = _calibration(result, model)
    files = {
        "pairs.csv": _pairs_csv(result, validation),
        **({"calibration.json": _json(calibration.model_dump(mode="json"))} if calibration else {}),
        "roc.png": roc_figure(genuine, impostor, title),
        "scores.png": score_histogram(genuine, impostor, threshold, title),
        "report.json": _json(report),
    }
    prepare_folder(out)
    for name, content in files.items():
        _replace(out / name, content)
    return report


def prepare_folder(out: Path) -> None:
    """Make the folder for a report; worth calling before the hours of work that the report is about."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(f"the folder {out} for the report cannot be made: {error}") from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise InvalidRequest(f"the folder {out} for the report is not writable; give another one")


def summary(report: Mapping[str, Any]) -> str:
    """The figures of a report as aligned lines for a terminal, without a newline at the end."""
    data, folds = report["dataset"], report["folds"]
    thresholds = [fold["threshold"] for fold in folds]
    lines = [
        ("dataset", f"{data['name']}, {data['pairs']} pairs, {data['photos']} photos, {data['folds']} folds"),
        (
            "accuracy",
            f"{100 * report['accuracy']:.2f} % ± {100 * report['accuracy_std']:.2f} % over the folds",
        ),
        (
            "threshold",
            f"{min(thresholds):.4f} to {max(thresholds):.4f}, from the {report['thresholds_from']}",
        ),
        *((f"TAR at FAR {far}", f"{100 * tar:.2f} %") for far, tar in report["tar_at_far"].items()),
        ("EER", f"{100 * report['eer']:.2f} %"),
        ("undetected", f"{len(report['undetected_photos'])} photos, {report['pairs_undetected']} pairs"),
        ("speed", f"{report['photos_per_second']:.1f} photos/s, {report['seconds']:.1f} s"),
    ]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)


def _figures_of_merit(
    result: LfwResult, labels: NDArray[np.bool_], validation: CrossValidation, model: Mapping[str, Any]
) -> dict[str, Any]:
    genuine, impostor = result.similarity[labels], result.similarity[~labels]
    return {
        "dataset": {
            "name": DATASET,
            "pairs": len(result.pairs),
            "photos": len(result.photos),
            "folds": len(validation.folds),
            "pairs_file": result.pairs_file.name,
            "pairs_sha256": result.pairs_sha256,
        },
        "accuracy": float(validation.accuracy.mean()),
        "accuracy_std": float(validation.accuracy.std()),
        "thresholds_from": "other folds" if len(validation.folds) > 1 else "same pairs, so optimistic",
        "folds": [
            {"fold": int(fold), "accuracy": float(accuracy), "threshold": float(threshold)}
            for fold, accuracy, threshold in zip(
                validation.folds, validation.accuracy, validation.thresholds, strict=True
            )
        ],
        "tar_at_far": {name: tar_at_far(genuine, impostor, far) for name, far in TAR_AT.items()},
        "eer": equal_error_rate(genuine, impostor),
        "undetected_photos": [
            photo for photo, detected in zip(result.photos, result.detected, strict=True) if not detected
        ],
        "pairs_undetected": int(np.isinf(result.similarity).sum()),
        "seconds": result.seconds,
        "photos_per_second": len(result.photos) / result.seconds,
        "model": dict(model),
    }


def _calibration(result: LfwResult, model: Mapping[str, Any]) -> Calibration | None:
    """None where there are too few pairs for two operating points.

    All pairs among the photos that the pairs file names and in which a face was found, not only the pairs that
    it lists: two photos of one person are genuine, of two persons impostor. Labels are used as published.
    """
    photos = np.array(result.photos)[result.detected]
    persons = np.unique([photo.split("/")[0] for photo in photos], return_inverse=True)[1]
    measured = operating_points(result.embeddings[result.detected], persons)
    if len(measured.points) < 2:
        return None
    figures = Calibration.model_construct(
        embedding_contract=model["embedding_contract"],
        detector=model["detector"],
        dataset=f"{DATASET}/{result.pairs_file.name}",
        dataset_sha256=result.pairs_sha256,
        persons=measured.persons,
        photos=measured.photos,
        genuine=measured.genuine,
        impostor=measured.impostors,
        points=tuple(
            OperatingPoint(fmr=point.fmr, threshold=point.threshold, fnmr=point.fnmr) for point in measured.points
        ),
    )
    return Calibration(calibration_id=figures.digest(), **dict(figures))


def _pairs_csv(result: LfwResult, validation: CrossValidation) -> bytes:
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


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
