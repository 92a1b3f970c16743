"""The measured operating points that come with the catalogue belong to the bundle that is made from it."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from export.adopt import adopt, default_alignment
from export.catalog import BundleRecipe, load_catalog
from export.pull import Pulled, pull
from service.errors import BundleError
from service.runtime.bundle import CARD_FILE, Bundle, open_bundle
from service.runtime.card import Calibration, Card, EmbeddingContract, Fusion

SHIPPED = sorted((Path(__file__).parents[2] / "export" / "calibration").glob("*.json"))
# What the embedders give for one crop; said by their files, which need not be here.
DIMENSIONS = {"open": 128, "centerface": 128}


@pytest.fixture(scope="module", params=[path.stem for path in SHIPPED])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def raw(name: str) -> dict[str, Any]:
    return read(name)


@pytest.fixture(scope="module")
def figures(raw: dict[str, Any]) -> Calibration:
    return Calibration.model_validate(raw)


@pytest.fixture(scope="module")
def shipped() -> Calibration:
    return Calibration.model_validate(read("open"))


def read(name: str) -> dict[str, Any]:
    path = SHIPPED[0].with_name(f"{name}.json")
    if not path.is_file():
        pytest.fail(f"{path} is not there: the default bundle has no operating points, so it can decide nothing")
    return json.loads(path.read_text(encoding="utf-8"))


def test_each_was_measured_on_the_bundle_that_the_catalogue_makes(figures: Calibration, name: str) -> None:
    recipe = load_catalog().bundle(name)
    assert recipe.embedder.preprocessing is not None
    contract = EmbeddingContract(
        weights=recipe.embedder.sha256,
        preprocessing=recipe.embedder.preprocessing,
        alignment=default_alignment(),
        fusion=recipe.fusion,
        dimension=DIMENSIONS.get(name, 512),
        precision="float32",
    )
    assert (figures.embedding_contract, figures.detector) == (contract.digest(), recipe.detector.sha256)


def test_the_default_one_was_measured_on_the_bundle_that_the_catalogue_makes(
    shipped: Calibration, pulled: Pulled, recipe: BundleRecipe
) -> None:
    assert shipped.embedding_contract == pulled.card.embedding_contract == pulled.card.contract.digest()
    assert shipped.detector == recipe.detector.sha256
    assert pulled.card.calibration == shipped


def test_its_id_is_the_digest_of_its_figures(raw: dict[str, Any]) -> None:
    figures = {key: value for key, value in raw.items() if key != "calibration_id"}
    canonical = json.dumps(figures, sort_keys=True, separators=(",", ":"))
    assert raw["calibration_id"] == hashlib.sha256(canonical.encode()).hexdigest()


def test_stricter_points_have_higher_thresholds_and_refuse_more(figures: Calibration) -> None:
    points = figures.points
    assert len(points) >= 2
    assert [p.fmr for p in points] == sorted({p.fmr for p in points}, reverse=True)
    assert [p.threshold for p in points] == sorted(p.threshold for p in points)
    assert [p.fnmr for p in points] == sorted(p.fnmr for p in points)
    assert points[0].threshold < points[-1].threshold


def test_no_point_claims_more_than_its_comparisons_can_show(figures: Calibration) -> None:
    assert figures.points[-1].fmr * figures.impostor >= 3
    assert figures.photos >= figures.persons


def test_a_bundle_made_before_the_figures_came_gets_them_with_the_next_pull(
    shipped: Calibration, pulled: Pulled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What adoption would do is another test's matter; here only whether it is asked to.
    folder = tmp_path / "bundles" / "open"
    folder.mkdir(parents=True)
    for network in (pulled.card.detector, pulled.card.embedder):
        (folder / network.file).symlink_to(pulled.path.resolve() / network.file)
    (folder / CARD_FILE).write_text(pulled.card.model_copy(update={"calibration": None}).to_json(), encoding="utf-8")
    monkeypatch.setattr("export.fetch.fetch_all", lambda files, cache: [cache for _ in files])
    monkeypatch.setattr("export.adopt.adopt", lambda *_: pulled.path)
    assert pull("open", tmp_path).card.calibration == shipped


@pytest.fixture
def ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Ships this text as the calibration of the tiny bundle."""

    def put(text: str) -> None:
        (tmp_path / "shipped").mkdir()
        (tmp_path / "shipped" / "tiny.json").write_text(text, encoding="utf-8")
        monkeypatch.setattr(resources, "files", lambda _: tmp_path / "shipped")

    return put


@pytest.fixture
def adopt_tiny(
    tiny_recipe: BundleRecipe, tiny_embedder: Path, published: tuple[Path, Path], tmp_path: Path
) -> Callable[[Fusion], Bundle]:
    """Adopts the tiny bundle and opens what came of it."""
    return lambda fusion: open_bundle(adopt(replace(tiny_recipe, fusion=fusion), published[0], tiny_embedder, tmp_path))


def measured(card: Card, **other: str) -> Calibration:
    points = [{"fmr": 0.01, "threshold": 0.3, "fnmr": 0.02}, {"fmr": 0.001, "threshold": 0.4, "fnmr": 0.05}]
    fields = {
        "embedding_contract": card.embedding_contract,
        "detector": card.detector.source.sha256,
        "dataset": "made up",
        "dataset_sha256": "0" * 64,
        "persons": 10,
        "photos": 50,
        "genuine": 100,
        "impostor": 10_000,
        "points": points,
    } | other
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return Calibration.model_validate({"calibration_id": digest, **fields})


def test_a_calibration_of_this_bundle_is_attached(
    ship: Callable[[str], None], adopt_tiny: Callable[[Fusion], Bundle], tiny_bundle: Path
) -> None:
    calibration = measured(open_bundle(tiny_bundle).card)
    ship(calibration.model_dump_json())
    made = adopt_tiny("sum")
    assert made.card.calibration == calibration
    assert made.path.name != tiny_bundle.name


@pytest.mark.parametrize("other", ["embedding_contract", "detector"])
def test_a_calibration_of_another_bundle_is_left_out(
    ship: Callable[[str], None], adopt_tiny: Callable[[Fusion], Bundle], tiny_bundle: Path, other: str
) -> None:
    ship(measured(open_bundle(tiny_bundle).card, **{other: "f" * 64}).model_dump_json())
    assert adopt_tiny("sum").card.calibration is None


def test_a_calibration_measured_with_another_fusion_is_left_out(
    ship: Callable[[str], None], adopt_tiny: Callable[[Fusion], Bundle], tiny_bundle: Path
) -> None:
    ship(measured(open_bundle(tiny_bundle).card).model_dump_json())
    assert adopt_tiny("concat").card.calibration is None


def test_a_damaged_calibration_makes_no_bundle(
    ship: Callable[[str], None], adopt_tiny: Callable[[Fusion], Bundle], tiny_bundle: Path, tmp_path: Path
) -> None:
    ship(measured(open_bundle(tiny_bundle).card).model_dump_json().replace("0.05", "0.04"))
    with pytest.raises(
        BundleError, match="(?s)The calibration that comes with tiny is damaged: .*is not the digest of"
    ):
        adopt_tiny("sum")
    assert not list((tmp_path / "bundles").iterdir())
