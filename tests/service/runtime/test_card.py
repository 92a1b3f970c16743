"""The card: what it must say, that it may not contradict itself, and the digests that stand for it."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from service.errors import BundleError
from service.runtime.card import Card, EmbeddingContract, read_card

Fields = dict[str, Any]
Seal = Callable[[Fields], Fields]


def put(fields: Fields, place: str, value: object) -> Fields:
    *outer, last = place.split(".")
    part: Any = fields
    for key in outer:
        part = part[int(key)] if isinstance(part, list) else part[key]
    part[int(last) if isinstance(part, list) else last] = value
    return fields


def read(fields: Fields) -> Card:
    return read_card(json.dumps(fields), "card.json")


def test_a_card_survives_being_written_and_read(fields: Fields) -> None:
    card = read(fields)
    assert json.loads(card.to_json()) == fields
    assert read_card(card.to_json(), "card.json") == card
    assert read_card(card.to_json().encode(), "card.json") == card


def test_a_card_without_calibration_is_valid(fields: Fields) -> None:
    assert read(put(fields, "calibration", None)).calibration is None
    del fields["calibration"]
    assert read(fields).calibration is None


# Embeddings outlive a release: were this digest to change by accident, all that were stored would be refused.
DEFAULT_CONTRACT = {
    "weights": "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79",
    "preprocessing": {"channels": "RGB", "mean": 0.0, "scale": 1.0},
    "alignment": {
        "size": 112,
        "template": [
            [38.29460144042969, 51.6963005065918],
            [73.53179931640625, 51.501399993896484],
            [56.02519989013672, 71.73660278320312],
            [41.54930114746094, 92.3655014038086],
            [70.72989654541016, 92.2041015625],
        ],
    },
    "fusion": "sum",
    "dimension": 128,
    "precision": "float32",
}


def test_the_digest_of_the_default_contract_is_what_it_was_when_embeddings_were_first_given_out() -> None:
    digest = "5c89cfcc199d0bae366646ad76d453824f1d79af776d29045968983a17354277"
    assert EmbeddingContract.model_validate(DEFAULT_CONTRACT).digest() == digest


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("weights", "f" * 64),
        ("preprocessing.channels", "BGR"),
        ("preprocessing.mean", 127.5),
        ("preprocessing.scale", 128.0),
        ("alignment.size", 128),
        *[(f"alignment.template.{point}.{axis}", 40.0) for point in range(5) for axis in range(2)],
        ("fusion", "none"),
        ("dimension", 512),
        ("precision", "float16"),
    ],
)
def test_whatever_changes_an_embedding_changes_the_digest(place: str, value: object) -> None:
    changed = put(json.loads(json.dumps(DEFAULT_CONTRACT)), place, value)
    assert changed != DEFAULT_CONTRACT
    digests = {EmbeddingContract.model_validate(fields).digest() for fields in (changed, DEFAULT_CONTRACT)}
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        ("embedding_contract", "0" * 64, "embedding_contract 000000000000… is not the contract's digest"),
        ("contract.dimension", 4, "is not the contract's digest"),
        ("contract.fusion", "concat", "is not the contract's digest"),
        ("contract.alignment.template.4.1", 13.5, "is not the contract's digest"),
        ("embedder.source.sha256", "f" * 64, "the contract names other weights than the embedder's source"),
        ("detector.source.sha256", "f" * 64, "the calibration was measured with another detector"),
        ("schema_version", 2, r"card schema 2 is not 1, which this version reads"),
        ("schema_version", "1", r"card schema '1' is not 1"),
        ("schema_version", None, r"card schema None is not 1"),
        ("comment", "hello", r"card\.json: comment: Extra inputs are not permitted"),
        ("detector.source.mirror", "x", r"detector\.source\.mirror: Extra inputs are not permitted"),
        ("parity.min_cosine", float("nan"), r"parity\.min_cosine: Input should be a finite number"),
        ("parity.detector_max_px", float("inf"), r"parity\.detector_max_px: Input should be a finite number"),
        ("contract.preprocessing.scale", 0.0, r"contract\.preprocessing\.scale: Input should be greater than 0"),
        ("contract.alignment.template.2", [1.0], r"contract\.alignment\.template\.2"),
        ("contract.alignment.size", 8, r"contract\.alignment\.size"),
        ("contract.dimension", 1, r"contract\.dimension"),
        ("contract.fusion", "mean", r"contract\.fusion: Input should be 'none', 'sum' or 'concat'"),
        ("contract.precision", "bf16", r"contract\.precision"),
        ("detector.size", 0, r"detector\.size: Input should be greater than 0"),
        ("detector.sha256", "D" * 64, r"detector\.sha256"),
        ("detector.file", "../../etc/passwd", r"detector\.file"),
        ("detector.file", "/etc/passwd", r"detector\.file"),
        ("detector.file", "sub/detector.onnx", r"detector\.file"),
        ("detector.file", ".hidden", r"detector\.file"),
        ("detector.file", "detector.onnx\n", r"detector\.file"),
        ("detector.file", "", r"detector\.file"),
        ("name", "Open Bundle", r"card\.json: name"),
        ("name", "../open", r"card\.json: name"),
        ("licence.commercial_use", None, r"licence\.commercial_use"),
        ("parity.crops", 0, r"parity\.crops"),
    ],
)
def test_a_card_that_is_not_right_is_refused_with_the_place(
    fields: Fields, place: str, value: object, complaint: str
) -> None:
    with pytest.raises(BundleError, match=complaint) as caught:
        read(put(fields, place, value))
    assert caught.value.message.startswith("card.json: ")


@pytest.mark.parametrize(
    "left_out", ["name", "licence", "detector", "embedder", "contract", "embedding_contract", "parity"]
)
def test_a_card_that_lacks_a_field_is_refused(fields: Fields, left_out: str) -> None:
    del fields[left_out]
    with pytest.raises(BundleError, match=rf"card\.json: {left_out}: Field required"):
        read(fields)


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        ("points.1.fmr", 0.2, r"operating points out of order at FMR 0\.2"),
        ("points.1.fmr", 0.1, r"operating points out of order at FMR 0\.1"),
        ("points.2.threshold", 0.4, r"operating points out of order at FMR 0\.001"),
        ("points.2.fnmr", 0.015, r"operating points out of order at FMR 0\.001"),
        ("points", [{"fmr": 0.1, "threshold": 0.25, "fnmr": 0.01}], "points: .*at least 2 items"),
        ("points.2.threshold", 1.5, r"points\.2\.threshold"),
        ("points.0.fmr", -0.1, r"points\.0\.fmr"),
        ("impostor", 2_999, r"FMR 0\.001 is below 3/2999 comparisons \(rule of 3\)"),
        ("persons", 1, "persons"),
        ("comment", "x", "comment: Extra inputs"),
    ],
)
def test_a_calibration_that_cannot_be_is_refused(
    fields: Fields, seal: Seal, place: str, value: object, complaint: str
) -> None:
    with pytest.raises(BundleError, match=complaint):
        read(seal(put(fields, f"calibration.{place}", value)))


def test_three_false_matches_are_just_enough(fields: Fields, seal: Seal) -> None:
    calibration = read(seal(put(fields, "calibration.impostor", 3_000))).calibration
    assert calibration is not None
    assert calibration.points[-1].fmr == 0.001


@pytest.mark.parametrize(
    ("place", "value"), [("points.1.threshold", 0.45), ("dataset", "another"), ("genuine", 101), ("photos", 51)]
)
def test_a_calibration_whose_figures_were_touched_is_refused(fields: Fields, place: str, value: object) -> None:
    with pytest.raises(BundleError, match="is not the digest of the figures"):
        read(put(fields, f"calibration.{place}", value))


def test_a_calibration_of_another_embedder_is_refused(fields: Fields, seal: Seal) -> None:
    elsewhere = seal(put(json.loads(json.dumps(fields)), "contract.fusion", "concat"))
    with pytest.raises(BundleError, match="the calibration was measured under another embedding contract"):
        read(put(fields, "calibration", elsewhere["calibration"]))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "1", '"card"', b"\xff\xfe", b"\x00", "{}", '{"schema_version": 1}', "[" * 100_000],
    ids=lambda text: repr(text[:20]),
)
def test_what_is_no_card_is_refused(text: str | bytes) -> None:
    with pytest.raises(BundleError, match=r"^card\.json: "):
        read_card(text, "card.json")
