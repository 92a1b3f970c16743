"""The comparison of losses on a few people of LFW, and the whole way of its best network: to a served bundle."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from export.checkpoint import ExportOptions, export_checkpoint
from models.checkpoint import load_checkpoint
from models.crops import photos_of
from models.demo_report import interval
from service.api.app import create_app
from service.engine import load_engine
from service.runtime.card import Licence
from service.settings import Settings

PEOPLE, LOSSES, SEEDS, STEPS = 40, ["contrastive", "normface"], 2, 6
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, lfw: Path, data_dir: Path) -> Path:
    """The folder of a short comparison, as the command makes it."""
    folder = tmp_path_factory.mktemp("demo")
    everybody = sorted({name.split("/")[0] for name in photos_of(lfw / "images", 3)})
    # Those with the fewest photos: all crops are cut in seconds.
    chosen = sorted(everybody, key=lambda name: len(list((lfw / "images" / name).iterdir())))[:PEOPLE]
    (folder / "photos").mkdir()
    for name in chosen:
        (folder / "photos" / name).symlink_to(lfw / "images" / name)
    command = [sys.executable, "-m", "models.demo", "--images", str(folder / "photos"), "--out", str(folder / "out")]
    command += ["--data-dir", str(data_dir), "--steps", str(STEPS), "--seeds", str(SEEDS), "--losses", *LOSSES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert (folder / "out" / "table.md").read_text() in done.stdout
    return folder / "out"


@pytest.fixture(scope="module")
def results(demo: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((demo / "results.json").read_text())
    return found


def people(file: Path) -> set[str]:
    return set(file.read_text().split())


def test_nobody_is_tested_on_who_was_trained_on(demo: Path) -> None:
    tested, tuned, trained = (people(demo / f"{name}.txt") for name in ("test", "tuning", "train"))
    assert len(tested | tuned | trained) == len(tested) + len(tuned) + len(trained) == PEOPLE
    assert people(demo / "train-tuning.txt") == tuned | trained
    for run in (demo / "runs").iterdir():
        config = load_checkpoint(run / "last.pt").card.config
        seen, held_out = (people(Path(config[table]["identities"])) for table in ("data", "validation"))
        assert not seen & held_out
        assert held_out == (tuned if "-tuning-" in run.name else tested)


def test_every_loss_has_the_same_budget_and_the_better_of_its_candidates(demo: Path, results: dict[str, Any]) -> None:
    assert sorted(results["losses"]) == LOSSES
    for loss, entry in results["losses"].items():
        assert len(entry["tests"]) == SEEDS
        cards = [load_checkpoint(demo / "runs" / f"{loss}-seed-{k}" / "last.pt").card for k in range(1, SEEDS + 1)]
        assert {card.step for card in cards} == {STEPS}
        assert [card.config["training"]["seed"] for card in cards] == [1, 2]
        best = int(np.argmax(entry["tuning_accuracy"]))
        candidate = load_checkpoint(demo / "runs" / f"{loss}-tuning-{best}" / "last.pt").card
        assert {card.loss_parameters == candidate.loss_parameters for card in cards} == {True}
        assert [card.validation["accuracy"] for card in cards] == [test["accuracy"] for test in entry["tests"]]


def test_the_table_and_the_figure_show_them(demo: Path, results: dict[str, Any]) -> None:
    table = (demo / "table.md").read_text()
    for loss, entry in results["losses"].items():
        [row] = [line for line in table.splitlines() if line.startswith(f"| `{loss}` ")]
        mean, half = interval(np.array([test["accuracy"] for test in entry["tests"]]))
        assert f"| {100 * mean:.1f} ± {100 * half:.1f} % |" in row
    with Image.open(demo / "figure.png") as figure:
        assert figure.size[0] > 1000


def test_the_interval_is_students() -> None:
    # Of 1, 2 and 3: t(0.975, 2 degrees of freedom) = 4.3027, the standard deviation 1.
    assert interval(np.array([1.0, 2.0, 3.0])) == pytest.approx((2, 4.3027 / np.sqrt(3)), rel=1e-4)
    assert interval(np.array([0.7])) == (0.7, 0.0)


def test_the_best_network_is_exported_served_and_verifies_two_photos(
    demo: Path, tmp_path: Path, data_dir: Path, lfw: Path
) -> None:
    options = ExportOptions("yunet", Licence(spdx="LicenseRef-unstated", url="", commercial_use=False))
    card = export_checkpoint(demo / "best.pt", tmp_path / "best", data_dir / "downloads", options)
    trained = load_checkpoint(demo / "best.pt").card
    assert (card.contract.dimension, card.contract.alignment) == (trained.dimension, trained.alignment)
    name = sorted(people(demo / "test.txt"))[0]
    one, other = sorted((lfw / "images" / name).iterdir())[:2]
    with TestClient(create_app(load_engine(Settings(bundle=str(tmp_path / "best"))), Settings())) as client:
        answers = [
            client.post(
                "/v1/verify",
                files={"image_a": one.read_bytes(), "image_b": photo.read_bytes()},
                data={"faces": "largest", "threshold": "0.9999"},
            ).json()
            for photo in (one, other)
        ]
    assert [answer["match"] for answer in answers] == [True, False]
