"""What an evaluation writes, from photos to files, checked against the outside checker's formulas."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.errors import InvalidRequest
from service.evaluation import report as report_module
from service.evaluation.folder import prepare_folder
from service.evaluation.lfw import evaluate_lfw
from service.evaluation.photos import EmbedPhoto
from service.evaluation.report import summary, write_report
from service.evaluation.verification import VerificationResult
from service.runtime.card import Calibration

MODEL = {
    "bundle": "open",
    "embedding_contract": "c0ffee" + "0" * 58,
    "detector": "dec0de" + "0" * 58,
    "provider": "cpu",
}
FILES = ["angles.png", "calibration.json", "det.png", "pairs.csv", "report.json", "roc.png"]


@pytest.fixture
def result(lfw_tree: tuple[Path, Path], embed_photo: EmbedPhoto) -> VerificationResult:
    return evaluate_lfw(embed_photo, *lfw_tree, workers=2)


def checker_figures(result: VerificationResult) -> dict[str, float]:
    """As shared/acceptance/lfw_http.py computes them."""
    same = np.array([pair.genuine for pair in result.pairs])
    found = np.isfinite(result.similarity)
    score = np.where(found, result.similarity, -1.0)
    fold = np.arange(len(same)) // (len(same) // 5)
    thresholds = np.unique(score)
    accuracy = []
    for k in range(5):
        train, test = fold != k, fold == k
        right = [np.sum((score[train] >= t) == same[train]) for t in thresholds]
        chosen = thresholds[int(np.argmax(right))]
        accuracy.append(np.mean(((score[test] >= chosen) == same[test]) & found[test]))
    impostor = np.sort(score[~same])[::-1]
    return {
        "accuracy": float(np.mean(accuracy)),
        "accuracy_std": float(np.std(accuracy)),
        "1e-1": float(np.mean(score[same] > impostor[int(0.1 * len(impostor))])),
    }


def test_the_report_has_the_checkers_figures(result: VerificationResult, tmp_path: Path) -> None:
    report = write_report(result, tmp_path / "out", MODEL)
    expected = checker_figures(result)
    assert 0.6 < expected["accuracy"] < 0.95, "the photos are to be neither hopeless nor easy"
    assert report["accuracy"] == pytest.approx(expected["accuracy"], abs=1e-12)
    assert report["accuracy_std"] == pytest.approx(expected["accuracy_std"], abs=1e-12)
    # Forty impostors cannot speak about lower rates.
    [at] = report["tar_at_far"]
    assert (at["far"], at["tar"]) == (0.1, expected["1e-1"])
    assert at["low"] < at["tar"] < at["high"]
    assert 0 < report["eer"] < 0.5


def test_the_report_says_what_was_measured(result: VerificationResult, tmp_path: Path) -> None:
    report = write_report(result, tmp_path / "deep" / "out", MODEL)
    assert sorted(path.name for path in (tmp_path / "deep" / "out").iterdir()) == FILES
    assert json.loads((tmp_path / "deep" / "out" / "report.json").read_text()) == report
    assert report["dataset"] == {
        "name": "lfw",
        "pairs": 80,
        "photos": len(result.photos.names),
        "folds": 5,
        "pairs_file": "pairs.txt",
        "pairs_sha256": result.pairs_sha256,
        "persons": 10,
        "persons_labelled": True,
    }
    assert report["undetected_photos"] == ["P_03/P_03_0002.jpg", "P_07/P_07_0001.jpg"]
    assert report["pairs_undetected"] == np.sum(result.similarity == -np.inf) >= 2
    assert report["photos_per_second"] == len(result.photos.names) / result.photos.seconds
    assert report["thresholds_from"] == "other folds"
    assert report["model"] == MODEL


def test_the_csv_tells_every_decision(result: VerificationResult, tmp_path: Path) -> None:
    report = write_report(result, tmp_path, MODEL)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "pairs.csv").read_text())))
    assert [(r["first"], r["second"]) for r in rows] == [(p.first, p.second) for p in result.pairs]
    thresholds = {str(fold["fold"]): fold["threshold"] for fold in report["folds"]}
    for row, pair, similarity in zip(rows, result.pairs, result.similarity, strict=True):
        assert (row["fold"], row["genuine"] == "true") == (str(pair.fold), pair.genuine)
        if np.isinf(similarity):
            assert (row["similarity"], row["decided"], row["correct"]) == ("", "", "false")
        else:
            assert float(row["similarity"]) == similarity
            decided = similarity >= thresholds[row["fold"]]
            assert row["decided"] == ("true" if decided else "false")
            assert row["correct"] == ("true" if decided == pair.genuine else "false")
    for fold in report["folds"]:
        own = [row["correct"] == "true" for row in rows if row["fold"] == str(fold["fold"])]
        assert fold["accuracy"] == np.mean(own)
    assert report["accuracy"] == pytest.approx(np.mean([fold["accuracy"] for fold in report["folds"]]))


def test_the_calibration_uses_all_pairs_of_detected_photos(result: VerificationResult, tmp_path: Path) -> None:
    write_report(result, tmp_path, MODEL)
    calibration = json.loads((tmp_path / "calibration.json").read_text())
    photos = [p for p, found in zip(result.photos.names, result.photos.detected, strict=True) if found]
    persons = [photo[:4] for photo in photos]
    genuine = sum(a == b for i, a in enumerate(persons) for b in persons[:i])
    assert calibration["photos"] == len(photos)
    assert calibration["persons"] == len(set(persons))
    assert calibration["genuine"] == genuine
    assert calibration["impostor"] == len(photos) * (len(photos) - 1) // 2 - genuine
    assert (calibration["embedding_contract"], calibration["detector"]) == (
        MODEL["embedding_contract"],
        MODEL["detector"],
    )
    assert (calibration["dataset"], calibration["dataset_sha256"]) == ("lfw/pairs.txt", result.pairs_sha256)
    vectors = result.photos.embeddings[result.photos.detected].astype(np.float64)
    scores, owners = vectors @ vectors.T, np.array(persons)
    dyads = [scores[np.ix_(owners == a, owners == b)] for a in set(persons) for b in set(persons) if a < b]
    assert len(calibration["points"]) >= 2
    for point in calibration["points"]:
        # Every two persons count alike, however many photos they have.
        share = np.mean([(dyad >= point["threshold"]).mean() for dyad in dyads])
        assert share <= point["fmr"] < share + 0.03
        assert point["fmr_low"] <= share <= point["fmr_high"]
    assert Calibration.model_validate(calibration, strict=False).calibration_id == calibration["calibration_id"]


def test_a_calibration_without_its_model_is_refused(result: VerificationResult, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="embedding_contract and detector"):
        write_report(result, tmp_path / "out", {"bundle": "open"})
    assert not (tmp_path / "out").exists()


def test_a_report_that_cannot_be_written_leaves_the_old_one_whole(
    result: VerificationResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(result, tmp_path, MODEL)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}

    def full(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_report(result, tmp_path, {**MODEL, "bundle": "other"})
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.*")} == before


def test_whoever_reads_the_old_report_is_not_disturbed_by_the_new_one(
    result: VerificationResult, tmp_path: Path
) -> None:
    write_report(result, tmp_path / "out", MODEL)
    before = (tmp_path / "out" / "report.json").read_bytes()
    (tmp_path / "same_file").hardlink_to(tmp_path / "out" / "report.json")
    write_report(result, tmp_path / "out", {**MODEL, "bundle": "other"})
    assert (tmp_path / "same_file").read_bytes() == before
    assert (tmp_path / "out" / "report.json").read_bytes() != before


def test_a_value_that_is_not_json_is_found_before_anything_is_written(
    result: VerificationResult, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_report(result, tmp_path / "out", {**MODEL, "speed": float("nan")})
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_the_callers_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(InvalidRequest, match="cannot be made"):
            prepare_folder(out)


def test_the_summary_is_aligned(result: VerificationResult, tmp_path: Path) -> None:
    report = write_report(result, tmp_path, MODEL)
    lines = summary(report).splitlines()
    names, gaps, values = zip(*((line[:15], line[15:17], line[17:]) for line in lines), strict=True)
    assert "TAR at FAR 1e-1" in names
    assert set(gaps) == {"  "}
    assert not any(value.startswith(" ") for value in values)
    assert values[1].startswith(f"{100 * report['accuracy']:.2f} % ± ")
    assert any("2 photos" in line for line in lines)


def pixels_of(png: bytes) -> NDArray[Any]:
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    assert image.size == (900, 650)
    return np.asarray(image.convert("RGB"), np.int16)


def count(pixels: NDArray[Any], colour: tuple[int, int, int]) -> int:
    return int((np.abs(pixels - np.array(colour)).max(axis=2) < 8).sum())


@pytest.mark.parametrize("name", ["roc.png", "det.png", "angles.png"])
def test_the_figures_on_disk_are_drawn(result: VerificationResult, tmp_path: Path, name: str) -> None:
    write_report(result, tmp_path, MODEL)
    pixels = pixels_of((tmp_path / name).read_bytes())
    assert count(pixels, (0x00, 0x72, 0xB2)) > 500, "the curve, the genuine scores"
    assert count(pixels, (0xD5, 0x5E, 0x00)) > 50, "the EER, the impostor scores"


def test_matplotlib_is_loaded_when_drawing_and_without_pyplot() -> None:
    program = (
        "import sys\n"
        f"import {report_module.__name__}\n"
        "from service.evaluation.canvas import canvas\n"
        "assert 'matplotlib' not in sys.modules\n"
        "canvas('t')\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
