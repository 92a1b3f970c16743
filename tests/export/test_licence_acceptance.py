"""Weights that are not free for commercial use: nothing is fetched before their licence is accepted by name."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from export.catalog import BundleRecipe, Catalog, CatalogFile, load_catalog
from export.pull import pull
from service.errors import InvalidRequest
from service.runtime.bundle import open_bundle

pytestmark = pytest.mark.usefixtures("offline")

INSIGHTFACE = "LicenseRef-InsightFace-NonCommercial"
STUDY = "CC-BY-NC-4.0"


def likeness(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service.cli.main", *map(str, arguments)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LIKENESS_")}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=clean, check=False)


def restricted(file: CatalogFile, spdx: str, permits: str) -> CatalogFile:
    licence = file.licence.model_copy(update={"spdx": spdx, "commercial_use": False})
    return replace(file, licence=licence, permits=permits)


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch, tiny_recipe: BundleRecipe) -> BundleRecipe:
    """The catalogue holds one bundle, whose embedder may be used for study only."""
    recipe = replace(tiny_recipe, embedder=restricted(tiny_recipe.embedder, STUDY, "study"))
    put(monkeypatch, recipe)
    return recipe


def put(monkeypatch: pytest.MonkeyPatch, recipe: BundleRecipe) -> None:
    catalog = Catalog({file.name: file for file in recipe.files}, {recipe.name: recipe})
    monkeypatch.setattr("export.pull.load_catalog", lambda: catalog)


@pytest.mark.parametrize(
    "flags", [[], ["--accept-license", "MIT"], ["--accept-license", INSIGHTFACE.lower()], ["--force"]], ids=" ".join
)
def test_the_command_refuses_and_names_licence_terms_and_flag(tmp_path: Path, flags: list[str]) -> None:
    run = likeness("pull", "buffalo_s", "--data-dir", tmp_path / "data", *flags)
    assert (run.returncode, run.stdout) == (2, "")
    assert f"{INSIGHTFACE} permits non-commercial research only (https://github.com/deepinsight/" in run.stderr
    assert f"Nothing was fetched. If you accept that, add --accept-license {INSIGHTFACE}\n" in run.stderr
    assert not (tmp_path / "data").exists()


RESTRICTED = {
    "buffalo_s": INSIGHTFACE,
    "buffalo_m": INSIGHTFACE,
    "buffalo_l": INSIGHTFACE,
    "antelopev2": INSIGHTFACE,
    "edgeface": "CC-BY-NC-SA-4.0",
}


def test_every_bundle_of_the_catalogue_that_is_not_for_commercial_use_must_be_accepted(tmp_path: Path) -> None:
    bundles = load_catalog().bundles
    restricted = {name for name, recipe in bundles.items() if not all(f.licence.commercial_use for f in recipe.files)}
    assert restricted == set(RESTRICTED)
    for name, spdx in RESTRICTED.items():
        permits = {f.permits for f in bundles[name].files if f.permits}
        with pytest.raises(InvalidRequest) as caught:
            pull(name, tmp_path / "data", accepted=["MIT"])
        assert caught.value.details == {"licences": [spdx]}
        assert all(f"{spdx} permits {what}" in caught.value.message for what in permits)
    assert not (tmp_path / "data").exists()


def test_programs_are_told_which_licences(tmp_path: Path) -> None:
    run = likeness("pull", "buffalo_s", "--data-dir", tmp_path, "--json")
    error = json.loads(run.stdout)["error"]
    assert (run.returncode, error["code"], error["details"]) == (2, "invalid_request", {"licences": [INSIGHTFACE]})


def test_once_it_is_accepted_the_mirrors_are_asked(tmp_path: Path) -> None:
    run = likeness("pull", "buffalo_s", "--accept-license", INSIGHTFACE, "--data-dir", tmp_path)
    assert run.returncode == 4
    assert "no mirror gave scrfd_500m_bnkps.onnx" in run.stderr


def test_the_default_bundle_needs_no_acceptance(tmp_path: Path) -> None:
    run = likeness("pull", "open", "--data-dir", tmp_path)
    assert run.returncode == 4
    assert "no mirror gave face_detection_yunet_2023mar.onnx" in run.stderr


@pytest.mark.usefixtures("study")
def test_an_accepted_bundle_is_made_and_says_what_it_is_not_for(data: Path) -> None:
    with pytest.raises(InvalidRequest, match=f"tiny are not free for commercial use: {STUDY} permits study"):
        pull("tiny", data)
    assert not (data / "bundles").exists()
    pulled = pull("tiny", data, accepted=["MIT", STUDY])
    assert pulled.fresh
    licence = open_bundle(pulled.path).card.licence
    assert (licence.spdx, licence.commercial_use) == (f"MIT AND {STUDY}", False)


@pytest.mark.usefixtures("study")
def test_a_bundle_that_is_there_was_accepted_but_making_it_again_asks_again(data: Path) -> None:
    pull("tiny", data, accepted=[STUDY])
    assert not pull("tiny", data).fresh
    with pytest.raises(InvalidRequest, match="--accept-license"):
        pull("tiny", data, force=True)


def test_every_restricted_licence_of_a_bundle_must_be_accepted(
    monkeypatch: pytest.MonkeyPatch, data: Path, study: BundleRecipe
) -> None:
    put(monkeypatch, replace(study, detector=restricted(study.detector, INSIGHTFACE, "research")))
    with pytest.raises(InvalidRequest) as caught:
        pull("tiny", data, accepted=[STUDY])
    assert caught.value.details == {"licences": [INSIGHTFACE]}
    assert STUDY not in caught.value.message
    assert pull("tiny", data, accepted=[STUDY, INSIGHTFACE]).fresh


def test_buffalo_s_is_pulled_with_its_licence(tmp_path: Path, buffalo_s_files: tuple[Path, Path]) -> None:
    for file in buffalo_s_files:
        link = tmp_path / "downloads" / file.parent.name / file.name
        link.parent.mkdir(parents=True)
        link.symlink_to(file)
    run = likeness("pull", "buffalo_s", "--accept-license", INSIGHTFACE, "--data-dir", tmp_path)
    assert run.returncode == 0, run.stderr
    assert f"licence of the weights: {INSIGHTFACE} (NOT FOR COMMERCIAL USE)" in run.stdout
