"""Accuracy on the real LFW, where it is at hand: a part of the protocol through the real command."""

import json
from pathlib import Path

import pytest
from PIL import Image

from service.cli.main import main


def test_a_part_of_lfw_is_verified(
    lfw: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (lfw / "pairs.txt").read_text().splitlines()
    # Of the first two folds (each 300 genuine pairs, then 300 impostor pairs), the first 60 of each kind.
    picked = [lines[1 + fold * 600 + kind * 300 + i] for fold in (0, 1) for kind in (0, 1) for i in range(60)]
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("\n".join(["2\t60", *picked]) + "\n")
    out = tmp_path / "report"
    arguments = ["evaluate", "lfw", "--images", str(lfw / "images"), "--pairs", str(pairs), "--out", str(out)]
    assert main([*arguments, "--data-dir", str(data_dir), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((out / "report.json").read_text())
    assert report["dataset"]["pairs"] == 240
    assert report["undetected_photos"] == []
    # 99.43 % on the whole protocol; one pair is 0.4 % here.
    assert report["accuracy"] >= 0.975
    assert len((out / "pairs.csv").read_text().splitlines()) == 241
    for picture in ("roc.png", "det.png", "angles.png"):
        with Image.open(out / picture) as image:
            assert image.size == (900, 650)
