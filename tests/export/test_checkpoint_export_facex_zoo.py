"""FaceX-Zoo's published MobileFaceNet, of which the bundle ``mv`` is made: a pickle, in our backbone."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export.adopt import adopt
from export.catalog import BundleRecipe, load_catalog
from export.embedder_file import TORCH
from export.fetch import fetch
from models.published import published_backbone
from service.engine import load_engine
from service.errors import BundleError
from service.recognition.recognizer import Recognizer
from service.runtime.card import Fusion, Preprocessing
from service.settings import Settings

# The cores are shared with whatever else runs; torch's threads would spin on them.
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[2]
PULL = """
import sys
sys.modules["torch"] = None
from service.cli.main import main
code = main(["pull", sys.argv[1], "--data-dir", sys.argv[2]])
print(sorted({"torch", "models"} & {name for name, module in sys.modules.items() if module}))
sys.exit(code)
"""


@pytest.fixture(scope="module")
def mv() -> BundleRecipe:
    return load_catalog().bundle("mv")


@pytest.fixture(scope="module")
def weights(mv: BundleRecipe, data_dir: Path) -> Path:
    return fetch(mv.embedder, data_dir / "downloads")


@pytest.mark.parametrize("fusion", ["none", "sum"])
def test_its_embeddings_are_the_same_served_as_in_torch(
    tmp_path: Path,
    published: tuple[Path, Path],
    mv: BundleRecipe,
    weights: Path,
    recognizer: Recognizer,
    group_photo: bytes,
    fusion: Fusion,
) -> None:
    engine = load_engine(Settings(bundle=str(adopt(replace(mv, fusion=fusion), published[0], weights, tmp_path))))
    card = engine.card
    assert card.contract.preprocessing == Preprocessing(channels="BGR", mean=127.5, scale=128)
    assert (card.contract.dimension, card.contract.weights) == (512, mv.embedder.sha256)
    assert (card.licence.spdx, card.licence.commercial_use) == ("MIT AND Apache-2.0", True)
    assert card.parity.min_cosine > 0.9999995
    assert card.parity.max_abs_deviation < 2e-6

    photo = recognizer.decode(group_photo)
    crops = np.stack([recognizer.crop(photo, face) for face in recognizer.detect(photo)])
    embeddings = engine.recognizer.embedder(crops)[0]
    backbone = published_backbone(weights, "facex-zoo-mobilefacenet")
    with torch.no_grad():
        images = (torch.from_numpy(crops[..., ::-1].copy()).permute(0, 3, 1, 2) - 127.5) / 128
        features = backbone(images) + (backbone(images.flip(3)) if fusion == "sum" else 0)
    assert np.abs(embeddings - nn.functional.normalize(features).numpy()).max() < 5e-6
    # Six people: each is like itself and unlike the others, so that equal is not all the same.
    assert np.abs(embeddings @ embeddings.T - np.eye(6)).max() < 0.5


def test_a_checkpoint_of_another_network_makes_no_bundle(
    tmp_path: Path, published: tuple[Path, Path], mv: BundleRecipe, weights: Path
) -> None:
    half = tmp_path / "half.pt"
    torch.save({"module.conv1.conv.weight": torch.zeros(64, 3, 3, 3)}, half)
    other = replace(mv.embedder, sha256=hashlib.sha256(half.read_bytes()).hexdigest())
    with pytest.raises(BundleError, match=r"(?s)half\.pt does not hold the weights of facex-zoo-mobilefacenet"):
        adopt(replace(mv, embedder=other), published[0], half, tmp_path)
    assert not (tmp_path / "bundles" / "mv").exists()
    assert weights.is_file()


@pytest.mark.usefixtures("offline")
def test_without_torch_it_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PULL, "mv", str(tmp_path / "data")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 4
    assert "face_recognition_mv.pkl is a checkpoint of PyTorch" in done.stderr
    assert f"`python -m pip install {TORCH}`" in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.usefixtures("offline")
def test_the_default_bundle_is_pulled_without_torch(
    tmp_path: Path, recipe: BundleRecipe, published: tuple[Path, Path]
) -> None:
    for file, path in zip(recipe.files, published, strict=True):
        link = tmp_path / "downloads" / file.sha256 / file.name
        link.parent.mkdir(parents=True)
        link.symlink_to(path.resolve())
    done = subprocess.run(
        [sys.executable, "-c", PULL, "open", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n[]\n")


def test_the_version_of_torch_that_is_named_is_the_one_of_this_project() -> None:
    assert f'"{TORCH}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f"\nTORCH := {TORCH}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")
