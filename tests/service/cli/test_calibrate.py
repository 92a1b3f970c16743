"""``likeness calibrate`` on real photos: what it compares, writes, keeps, leaves out and refuses."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from service.cli.main import main
from service.runtime.card import Calibration

PERSONS = 14


@pytest.fixture(scope="module")
def images(lfw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos each of 14 persons of LFW."""
    folder = tmp_path_factory.mktemp("persons")
    several = [person for person in sorted((lfw / "images").iterdir()) if len(list(person.glob("*.jpg"))) == 2]
    for person in several[:PERSONS]:
        shutil.copytree(person, folder / person.name)
    return folder


def calibrate(images: Path, data_dir: Path, out: Path, *flags: str) -> int:
    return main(["calibrate", "--images", str(images), "--data-dir", str(data_dir), "--out", str(out), *flags])


@pytest.fixture(scope="module")
def written(images: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What it wrote, and the embeddings it kept."""
    out = tmp_path_factory.mktemp("calibration")
    assert calibrate(images, data_dir, out, "--name", "small", "--cache", str(out / "kept.npz")) == 0
    return out


def test_the_file_is_a_calibration_of_all_pairs(written: Path, images: Path) -> None:
    made = Calibration.model_validate_json((written / "calibration.json").read_bytes())
    assert (made.dataset, made.persons, made.photos) == ("small", PERSONS, 2 * PERSONS)
    assert (made.genuine, made.impostor) == (PERSONS, 2 * PERSONS * (2 * PERSONS - 1) // 2 - PERSONS)
    assert made.feature_norm is not None
    assert made.points[-1].fmr >= 3 / (PERSONS * (PERSONS - 1) / 2)
    total = hashlib.sha256()
    for photo in sorted(images.glob("*/*.jpg")):
        name = photo.relative_to(images).as_posix()
        total.update(f"{hashlib.sha256(photo.read_bytes()).hexdigest()}  {name}\n".encode())
    assert made.dataset_sha256 == total.hexdigest()
    assert (written / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_kept_embeddings_give_the_same_calibration_without_the_photos_being_embedded(
    written: Path, images: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--name", "small", "--cache", str(written / "kept.npz"), "--json")
    assert calibrate(images, data_dir, tmp_path, *flags) == 0
    told = capsys.readouterr()
    assert "embedding photos" not in told.err
    again: dict[str, Any] = json.loads(told.out)
    assert again == json.loads((written / "calibration.json").read_text())


def test_photos_and_persons_can_be_left_out(written: Path, images: Path, data_dir: Path, tmp_path: Path) -> None:
    first, second = sorted(path.name for path in images.iterdir())[:2]
    photo = sorted((images / second).iterdir())[0]
    errors = tmp_path / "errors.txt"
    errors.write_text(f"# wrong labels\n{first}  # the person\n{second}/{photo.name}\n")
    flags = ("--without", str(errors), "--cache", str(written / "kept.npz"))
    assert calibrate(images, data_dir, tmp_path / "out", *flags) == 0
    made = Calibration.model_validate_json((tmp_path / "out" / "calibration.json").read_bytes())
    assert (made.persons, made.photos) == (PERSONS - 1, 2 * PERSONS - 3)
    assert made.dataset == f"{images.name}, without errors.txt"


def test_too_few_persons_are_refused(
    images: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for person in sorted(images.iterdir())[:3]:
        shutil.copytree(person, tmp_path / "few" / person.name)
    assert calibrate(tmp_path / "few", data_dir, tmp_path / "out") == 2
    assert "too few pairs for two operating points" in capsys.readouterr().err
    assert not (tmp_path / "out" / "calibration.json").exists()


def test_a_cache_of_other_photos_is_refused(
    written: Path, images: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(images, tmp_path / "more")
    shutil.copytree(sorted(images.iterdir())[0], tmp_path / "more" / "Somebody_Else")
    assert calibrate(tmp_path / "more", data_dir, tmp_path / "out", "--cache", str(written / "kept.npz")) == 2
    assert "keeps embeddings of other photos" in capsys.readouterr().err
