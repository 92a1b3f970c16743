"""What an evaluation of identification writes, recounted from the searches that it lists."""

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.evaluation.identification import fnir_at_fpir
from service.evaluation.lfw_search import HALVES, LfwSearchResult, evaluate_lfw_search
from service.evaluation.photos import EmbedPhoto
from service.evaluation.search_figures import cmc_figure, open_set_figure
from service.evaluation.search_report import search_summary, write_search_report

MODEL = {"bundle": "open", "provider": "cpu"}
BLUE, VERMILION = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)


@pytest.fixture
def result(lfw_tree: tuple[Path, Path], embed_photo: EmbedPhoto) -> LfwSearchResult:
    """Twenty persons: with the fixture's ten there are too few strangers to measure any FPIR. One label is wrong."""
    images = lfw_tree[0]
    for person in list(images.iterdir()):
        turned = images / person.name.replace("P_", "Q_")
        turned.mkdir()
        for photo in person.glob("*.jpg"):
            if photo.stat().st_size > 100:
                Image.open(photo).rotate(90).save(turned / photo.name.replace("P_", "Q_"), quality=95)
    shutil.copy(images / "P_05/P_05_0001.jpg", images / "P_00/P_00_0005.jpg")
    return evaluate_lfw_search(embed_photo, images, workers=2)


def rows_of(out: Path) -> dict[str, list[dict[str, str]]]:
    """The lines of searches.csv by gallery."""
    rows: dict[str, list[dict[str, str]]] = {}
    for row in csv.DictReader(io.StringIO((out / "searches.csv").read_text())):
        rows.setdefault(row["gallery"], []).append(row)
    return rows


def scores_of(rows: list[dict[str, str]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    scores = [float(row["similarity"] or "-inf") for row in rows]
    mated = [
        score if row["first"] == row["mate"] else -np.inf
        for row, score in zip(rows, scores, strict=True)
        if row["mate"]
    ]
    return np.array(mated), np.array([score for row, score in zip(rows, scores, strict=True) if not row["mate"]])


def test_the_closed_set_is_counted_from_its_searches(result: LfwSearchResult, tmp_path: Path) -> None:
    report = write_search_report(result, tmp_path, MODEL)
    rows, closed = rows_of(tmp_path)["all"], report["closed_set"]
    assert {name: closed[name] for name in ("persons", "mated", "non_mated")} == {
        "persons": 20,
        "mated": len(rows),
        "non_mated": 0,
    }
    assert closed["probe_persons"] == 20
    ranks = [int(row["rank"] or 10**9) for row in rows]
    rates = [sum(rank <= k for rank in ranks) / len(rows) for k in range(1, 21)]
    assert closed["cmc"]["rate"] == pytest.approx(rates, abs=1e-12)
    assert 0.3 < rates[0] < rates[-1] < 1, "the photos are to be neither hopeless nor easy"
    for rank, at in closed["identification_rate"].items():
        assert at["rate"] == rates[int(rank) - 1]
        assert at["low"] < at["rate"] < at["high"]
    assert list(closed["identification_rate"]) == ["1", "5", "10"]


def test_the_open_set_is_counted_from_its_searches(result: LfwSearchResult, tmp_path: Path) -> None:
    report = write_search_report(result, tmp_path, MODEL)
    rows, open_set = rows_of(tmp_path), report["open_set"]
    assert list(rows) == ["all", *(f"half {k}" for k in range(1, HALVES + 1))]
    points, curves = [], []
    for k, gallery in enumerate(open_set["galleries"], start=1):
        mated, non_mated = scores_of(rows[f"half {k}"])
        assert (gallery["persons"], gallery["mated"], gallery["non_mated"]) == (10, mated.size, non_mated.size)
        # Of the three rates only this one can be measured with some fifty strangers.
        [point] = gallery["points"]
        assert point["fpir"] == 0.1
        assert point["false_positives"] == np.sum(non_mated >= point["threshold"]) == non_mated.size // 10
        assert point["false_negatives"] == np.sum(mated < point["threshold"])
        assert point["fnir"] == point["false_negatives"] / mated.size
        points.append(point)
        curves.append([fnir_at_fpir(mated, non_mated, fpir).fnir for fpir in open_set["curve"]["fpir"]])
    [mean] = open_set["points"]
    assert mean["fpir"] == 0.1
    for name in ("fnir", "threshold"):
        values = [point[name] for point in points]
        assert (mean[name], mean[f"{name}_std"]) == pytest.approx((np.mean(values), np.std(values)), abs=1e-12)
    assert 0 < mean["fnir"] < 1
    assert mean["fnir_std"] > 0
    assert open_set["curve"]["fnir"] == pytest.approx(np.mean(curves, axis=0), abs=1e-12)
    assert open_set["curve"]["fnir_std"] == pytest.approx(np.std(curves, axis=0), abs=1e-12)
    smallest = 3 / min(gallery["non_mated"] for gallery in open_set["galleries"])
    assert (open_set["curve"]["fpir"][0], open_set["curve"]["fpir"][-1]) == pytest.approx((smallest, 1))


def test_the_report_says_what_was_measured(result: LfwSearchResult, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    report = write_search_report(result, out, MODEL)
    assert sorted(path.name for path in out.iterdir()) == ["cmc.png", "open_set.png", "report.json", "searches.csv"]
    assert json.loads((out / "report.json").read_text()) == report
    assert report["dataset"] == {"name": "lfw", "persons": 20, "photos": 99}
    assert {"P_03/P_03_0002.jpg", "P_07/P_07_0001.jpg"} < set(report["undetected_photos"])
    assert report["photos_per_second"] == 99 / result.photos.seconds
    assert report["model"] == MODEL
    undetected = [row for row in rows_of(out)["all"] if row["probe"] in report["undetected_photos"]]
    assert undetected
    assert all((row["rank"], row["first"], row["similarity"]) == ("", "", "") for row in undetected)


def test_the_summary_is_aligned(result: LfwSearchResult, tmp_path: Path) -> None:
    report = write_search_report(result, tmp_path, MODEL)
    lines = search_summary(report).splitlines()
    names, gaps, values = zip(*((line[:16], line[16:18], line[18:]) for line in lines), strict=True)
    assert [name.rstrip() for name in names] == [
        *("dataset", "closed set", "rank 1", "rank 5", "rank 10"),
        *("open set", "FNIR at FPIR 0.1", "undetected", "speed"),
    ]
    assert set(gaps) == {"  "}
    assert not any(value.startswith(" ") for value in values)
    assert values[1] == "20 persons enrolled, 79 mated probes"
    assert values[2].startswith(f"{100 * report['closed_set']['cmc']['rate'][0]:.2f} %, 95 % interval ")
    assert values[6].startswith(f"{100 * report['open_set']['points'][0]['fnir']:.2f} % ± ")


def pixels_of(png: bytes) -> NDArray[Any]:
    image = Image.open(io.BytesIO(png))
    assert (image.format, image.size) == ("PNG", (900, 650))
    return np.asarray(image.convert("RGB"), np.int16)


def test_the_figures_are_drawn(result: LfwSearchResult, tmp_path: Path) -> None:
    write_search_report(result, tmp_path, MODEL)
    for name in ("cmc.png", "open_set.png"):
        pixels = pixels_of((tmp_path / name).read_bytes())
        for colour in (BLUE, VERMILION):
            assert (np.abs(pixels - np.array(colour)).max(axis=2) < 8).sum() > 50


def test_the_figures_show_the_rates_they_are_given() -> None:
    rates = np.array([0.8, 0.9, 0.95])
    band = np.stack([rates - 0.05, rates + 0.05])
    fpir = np.array([0.01, 0.1, 1.0])
    cmc, open_set = cmc_figure(rates, band, "t"), open_set_figure(fpir, 1 - rates, 0.01 * rates, {0.1: 0.1}, "t")
    assert np.array_equal(pixels_of(cmc), pixels_of(cmc_figure(rates, band, "t")))
    assert not np.array_equal(pixels_of(cmc), pixels_of(cmc_figure(rates - 0.02, band, "t")))
    assert not np.array_equal(
        pixels_of(open_set), pixels_of(open_set_figure(fpir, 1.1 - rates, 0.01 * rates, {0.1: 0.1}, "t"))
    )


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_the_figures_of_extreme_rates_draw_without_a_warning(rate: float) -> None:
    ones = np.ones(2)
    pixels_of(cmc_figure(rate * ones, rate * np.ones((2, 2)), "t"))
    pixels_of(open_set_figure(np.array([0.1, 1]), rate * ones, 0 * ones, {}, "t"))
