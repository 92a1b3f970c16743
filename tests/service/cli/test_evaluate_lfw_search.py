"""Identification on the real LFW, where it is at hand: some persons through the real command."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.cli.main import main
from service.engine import Engine

BLANK, WRONG = "Zico/Zico_0004.jpg", "Zico/Zico_0005.jpg"


@pytest.fixture(scope="module")
def images(lfw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 persons with three photos each and 25 with one, a grey photo, and one of somebody else under Zico's name."""
    folder = tmp_path_factory.mktemp("search") / "images"
    photos = {person: sorted(person.iterdir()) for person in sorted((lfw / "images").iterdir())}
    many = [person for person in photos if len(photos[person]) == 3][-25:]
    for person in [*many, *[person for person in photos if len(photos[person]) == 1][:25]]:
        shutil.copytree(person, folder / person.name)
    Image.new("RGB", (250, 250), "grey").save(folder / BLANK)
    shutil.copy(photos[many[0]][1], folder / WRONG)
    return folder


@pytest.fixture(scope="module")
def vectors(images: Path, engine: Engine) -> dict[str, NDArray[np.float64]]:
    """The embedding of the face nearest to the centre of each photo."""
    found = {}
    for path in sorted(images.glob("*/*.jpg")):
        name = f"{path.parent.name}/{path.name}"
        image, faces = engine.embed(path.read_bytes(), "all") if name != BLANK else (None, [])
        if image is not None:
            boxes = np.array([embedded.face.box for _, embedded in faces], np.float64)
            centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
            off = np.linalg.norm(centres - [image.width / 2, image.height / 2], axis=1) / np.sqrt(sides.prod(axis=1))
            found[name] = faces[int(off.argmin())][1].embedding.astype(np.float64)
    return found


def test_some_persons_of_lfw_are_searched(
    images: Path,
    vectors: dict[str, NDArray[np.float64]],
    data_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["evaluate", "lfw-search", "--images", str(images), "--out", str(tmp_path), "--data-dir", str(data_dir)]
    assert main([*arguments, "--workers", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((tmp_path / "report.json").read_text())
    assert report["dataset"] == {"name": "lfw", "persons": 50, "photos": 102}
    assert report["undetected_photos"] == [BLANK]
    for picture in ("cmc.png", "open_set.png"):
        with Image.open(tmp_path / picture) as image:
            assert image.size == (900, 650)

    searches: dict[str, list[dict[str, str]]] = {}
    for row in csv.DictReader(io.StringIO((tmp_path / "searches.csv").read_text())):
        searches.setdefault(row["gallery"], []).append(row)
    persons = sorted(path.name for path in images.iterdir())
    galleries = {"all": report["closed_set"]}
    galleries |= {f"half {k}": gallery for k, gallery in enumerate(report["open_set"]["galleries"], start=1)}
    assert list(searches) == list(galleries)
    for name, rows in searches.items():
        strangers = {row["probe"].split("/")[0] for row in rows if not row["mate"]}
        enrolled = [person for person in persons if person not in strangers]
        assert len(enrolled) == (50 if name == "all" else 25)
        gallery = np.stack([vectors[f"{person}/{person}_0001.jpg"] for person in enrolled])
        mated, non_mated, ranks = [], [], []
        for row in rows:
            person = row["probe"].split("/")[0]
            scores = gallery @ vectors[row["probe"]] if row["probe"] in vectors else np.full(len(enrolled), -np.inf)
            best = scores.max()
            assert float(row["similarity"] or "-inf") == pytest.approx(best, abs=1e-6)
            if person in strangers:
                non_mated.append(best)
                continue
            mate = scores[enrolled.index(person)]
            ranks.append(int((scores >= mate).sum()) if row["probe"] in vectors else 10**9)
            mated.append(best if ranks[-1] == 1 else -np.inf)
        assert (galleries[name]["mated"], galleries[name]["non_mated"]) == (len(mated), len(non_mated))
        if name == "all":
            cmc = [np.mean(np.array(ranks) <= k) for k in range(1, 51)]
            assert report["closed_set"]["cmc"]["rate"] == pytest.approx(cmc, abs=1e-12)
            # The grey photo is never found, the one under a wrong name only far down.
            assert (cmc[0], cmc[-1]) == pytest.approx((50 / 52, 51 / 52))
        else:
            [point] = galleries[name]["points"]
            permitted = len(non_mated) // 10
            # Between two floats of the service and those of this test there may be 1e-7.
            assert point["threshold"] == pytest.approx(np.sort(non_mated)[-1 - permitted], abs=1e-6)
            assert point["false_positives"] == permitted
            assert point["false_negatives"] == np.sum(np.array(mated) < point["threshold"] - 1e-6)


def test_a_folder_that_is_no_lfw_is_refused(
    images: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / "alone"
    for person in sorted(images.iterdir())[:3]:
        (alone / person.name).mkdir(parents=True)
        shutil.copy(person / f"{person.name}_0001.jpg", alone / person.name)
    (tmp_path / "empty").mkdir()
    for folder, complaint in ((tmp_path / "empty", "there is no photo"), (alone, "none of the 3 persons")):
        arguments = ["evaluate", "lfw-search", "--images", str(folder), "--out", str(tmp_path / "out")]
        assert main([*arguments, "--data-dir", str(data_dir)]) == 2
        error = capsys.readouterr().err
        assert complaint in error
        assert str(folder) in error
    assert not list((tmp_path / "out").iterdir())
