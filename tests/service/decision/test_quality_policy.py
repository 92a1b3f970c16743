"""Limits on photos, each with its reason."""

from dataclasses import replace

import pytest

from service.decision.quality_policy import POLICIES, reasons, require_quality
from service.errors import FaceQualityTooLow
from service.recognition.quality import Quality
from service.runtime.card import Calibration

GOOD = Quality(60.0, 2.0, 5.0, 8.0, 0.45, 0.2, 0.01, 12.0, 0.93, 25.0)
USUAL = Calibration.model_construct(feature_norm=25.0)

BAD = {
    "too_few_pixels": {"inter_eye_distance": 6.0},
    "turned_sideways": {"yaw_degrees": -88.0},
    "turned_up_or_down": {"pitch_degrees": 70.0},
    "too_dark": {"brightness": 0.01},
    "too_bright": {"brightness": 0.98},
    "low_contrast": {"contrast": 0.005},
    "black_or_white": {"clipped": 0.95},
    "blurred": {"sharpness": 1.0},
    "uncertain_face": {"detection_score": 0.5},
    "weak_features": {"feature_norm": 12.0},
}


def test_a_good_photo_has_no_reasons() -> None:
    for policy in POLICIES:
        assert reasons(GOOD.details(), policy, USUAL) == []
        require_quality(GOOD, policy, USUAL, "image")


@pytest.mark.parametrize("code", BAD)
def test_each_measure_has_its_reason(code: str) -> None:
    poor = replace(GOOD, **BAD[code])
    for policy in ("enrol", "probe"):
        [reason] = reasons(poor.details(), policy, USUAL)
        assert (reason.code, reason.measure, reason.value) == (code, *next(iter(BAD[code].items())))
    assert reasons(poor.details(), "off", USUAL) == []


def test_what_cannot_be_searched_for_cannot_be_enrolled() -> None:
    enrol, probe = POLICIES["enrol"], POLICIES["probe"]
    assert enrol is not None
    assert probe is not None
    for name in ("inter_eye_distance", "contrast", "sharpness", "detection_score", "feature_norm"):
        assert getattr(enrol, name) > getattr(probe, name)
    for name in ("yaw_degrees", "pitch_degrees", "clipped"):
        assert getattr(enrol, name) < getattr(probe, name)


def test_the_error_tells_every_reason_with_value_and_limit() -> None:
    poor = replace(GOOD, sharpness=1.0, feature_norm=12.0)
    with pytest.raises(FaceQualityTooLow, match=r"images\[2\] is not good enough for quality=enrol: blurred") as caught:
        require_quality(poor, "enrol", USUAL, "images[2]")
    told = caught.value.details["reasons"]
    assert [reason["code"] for reason in told] == ["blurred", "weak_features"]
    assert told[1]["limit"] == pytest.approx(25 * 0.75)


def test_feature_norms_are_judged_only_where_usual_ones_are_known() -> None:
    weak = replace(GOOD, feature_norm=1.0)
    assert reasons(weak.details(), "enrol", None) == []
    assert reasons(weak.details(), "enrol", Calibration.model_construct(feature_norm=None)) == []
    assert reasons(replace(GOOD, feature_norm=None).details(), "enrol", USUAL) == []


def test_a_face_enrolled_before_there_were_so_many_measures_is_judged_by_those_it_has() -> None:
    assert reasons({"sharpness": 1.0, "roll_degrees": 3.0}, "enrol", USUAL)[0].code == "blurred"
