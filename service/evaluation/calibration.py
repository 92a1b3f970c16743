"""From a labelled set of photos to the operating points that a bundle serves by."""

from collections.abc import Mapping
from typing import Any

from service.evaluation.comparisons import Integers
from service.evaluation.operating_points import operating_points
from service.evaluation.photos import PhotoSet
from service.runtime.card import Calibration, OperatingPoint

# Without these a calibration could be put to use with a model that it was not measured on.
MODEL_KEYS = ("embedding_contract", "detector")


def require_model(model: Mapping[str, Any]) -> None:
    """Raises ValueError where the digests that a calibration is valid for are not there."""
    absent = [key for key in MODEL_KEYS if not model.get(key)]
    if absent:
        raise ValueError(f"the model mapping must name {' and '.join(absent)}, which a calibration is valid for")


def calibrate(
    photos: PhotoSet, persons: Integers, dataset: tuple[str, str], model: Mapping[str, Any]
) -> Calibration | None:
    """None where there are too few pairs for two operating points.

    All pairs among the photos in which a face was found, not only those that a protocol lists: two photos of one
    person are genuine, of two persons impostor. Labels are used as published.

    Args:
        persons: (p,) the same number for photos of the same person.
        dataset: its name and its sha256.
        model: has ``embedding_contract`` and ``detector``.
    """
    measured = operating_points(photos.embeddings[photos.detected], persons[photos.detected])
    if len(measured.points) < 2:
        return None
    name, digest = dataset
    figures = Calibration.model_construct(
        embedding_contract=model["embedding_contract"],
        detector=model["detector"],
        dataset=name,
        dataset_sha256=digest,
        persons=measured.persons,
        photos=measured.photos,
        genuine=measured.genuine,
        impostor=measured.impostors,
        points=tuple(
            OperatingPoint(fmr=point.fmr, threshold=point.threshold, fnmr=point.fnmr) for point in measured.points
        ),
    )
    return Calibration(calibration_id=figures.digest(), **dict(figures))
