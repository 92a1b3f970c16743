"""Is a photo good enough? Limits on its measures, each with the reason that is told."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from service.errors import FaceQualityTooLow
from service.recognition.quality import Quality
from service.runtime.card import Calibration

QualityPolicy = Literal["enrol", "probe", "off"]


@dataclass(frozen=True)
class Limits:
    """What is still accepted. Measured, see ``docs/quality.md``.

    Attributes:
        inter_eye_distance, sharpness, contrast, detection_score: the least.
        yaw_degrees, pitch_degrees, clipped: the most, either way.
        brightness: from, to.
        feature_norm: the least, as a share of the median of the calibration's photos.
    """

    inter_eye_distance: float
    yaw_degrees: float
    pitch_degrees: float
    brightness: tuple[float, float]
    contrast: float
    clipped: float
    sharpness: float
    detection_score: float
    feature_norm: float


@dataclass(frozen=True)
class Reason:
    """Why a photo is not good enough: a stable code, the measure, its value and the limit it is beyond."""

    code: str
    measure: str
    value: float
    limit: float

    def details(self) -> dict[str, object]:
        return {"code": self.code, "measure": self.measure, "value": round(self.value, 4), "limit": self.limit}


POLICIES: Mapping[QualityPolicy, Limits | None] = {
    "enrol": Limits(10.0, 75.0, 45.0, (0.05, 0.9), 0.03, 0.7, 2.0, 0.7, 0.75),
    "probe": Limits(7.0, 85.0, 60.0, (0.02, 0.97), 0.01, 0.9, 1.3, 0.6, 0.65),
    "off": None,
}


def reasons(
    measures: Mapping[str, float], policy: QualityPolicy, calibration: Calibration | None = None
) -> list[Reason]:
    """All reasons why a face is not good enough, none if it is. A measure that is not there is not looked at.

    Args:
        measures: by their names in ``Quality``.
        calibration: knows which feature norms are usual; without it they are not looked at.
    """
    limits = POLICIES[policy]
    if limits is None:
        return []
    usual = calibration.feature_norm if calibration else None
    least = [
        ("too_few_pixels", "inter_eye_distance", limits.inter_eye_distance),
        ("too_dark", "brightness", limits.brightness[0]),
        ("low_contrast", "contrast", limits.contrast),
        ("blurred", "sharpness", limits.sharpness),
        ("uncertain_face", "detection_score", limits.detection_score),
        *([] if usual is None else [("weak_features", "feature_norm", limits.feature_norm * usual)]),
    ]
    most = [
        ("turned_sideways", "yaw_degrees", limits.yaw_degrees),
        ("turned_up_or_down", "pitch_degrees", limits.pitch_degrees),
        ("too_bright", "brightness", limits.brightness[1]),
        ("black_or_white", "clipped", limits.clipped),
    ]
    return [
        *(Reason(c, m, measures[m], limit) for c, m, limit in least if m in measures and measures[m] < limit),
        *(Reason(c, m, measures[m], limit) for c, m, limit in most if m in measures and abs(measures[m]) > limit),
    ]


def require_quality(quality: Quality, policy: QualityPolicy, calibration: Calibration | None, what: str) -> None:
    """Raises FaceQualityTooLow, with all reasons, for a face below the limits; ``what`` stands for the photo."""
    found = reasons(quality.details(), policy, calibration)
    if found:
        told = ", ".join(f"{r.code} ({r.measure} {r.value:.3g}, limit {r.limit:.3g})" for r in found)
        raise FaceQualityTooLow(
            f"The face in {what} is not good enough for quality={policy}: {told}.",
            {"image": what, "policy": policy, "reasons": [reason.details() for reason in found]},
        )
