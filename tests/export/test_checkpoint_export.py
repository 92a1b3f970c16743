"""From a checkpoint to a served bundle, as a user does it; the oracle is the backbone itself, in torch and float64."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from torch import nn

from export.catalog import load_catalog
from export.checkpoint import DETECTORS, ExportOptions, export_checkpoint, to_onnx
from export.embedder import adopt_embedder
from export.machine import rewritten
from export.projection import Pca
from export.rewrites import expand_prelu
from models.backbones import make_backbone
from models.checkpoint import Card as CheckpointCard
from models.checkpoint import load_checkpoint, save_checkpoint
from service.api.app import create_app
from service.engine import Engine, load_engine
from service.errors import BundleError, InvalidRequest
from service.recognition.recognizer import Recognizer
from service.runtime.bundle import Bundle
from service.runtime.card import Calibration, Card, Fusion, Licence, OperatingPoint, Preprocessing
from service.settings import Settings

# The cores are shared with whatever else runs; torch's threads would spin on them.
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[2]
DIMENSION = 48
UNSTATED = Licence(spdx="LicenseRef-unstated", url="", commercial_use=False)
USUAL = Preprocessing(channels="RGB", mean=127.5, scale=127.5)
OPTIONS = ExportOptions(detector="yunet", licence=UNSTATED)

Crops = NDArray[np.uint8]
Vectors = NDArray[np.float64]
Export = Callable[..., Card]


def used(backbone: nn.Module) -> nn.Module:
    """As after some training: batch norms with statistics and gains, slopes that differ."""
    torch.manual_seed(3)
    for module in backbone.modules():
        if isinstance(module, nn.PReLU | nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.05, 0.6 if isinstance(module, nn.PReLU) else 1.5)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.bias, std=0.3)
    backbone.train()
    with torch.no_grad():
        for _ in range(10):
            backbone(torch.randn(4, 3, 112, 112))
    return backbone.eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Path:
    """A tiny network of the mobile family, of the channel order that is not the usual one."""
    card = CheckpointCard(
        name="mobilefacenet",
        options={"width": 0.25},
        dimension=DIMENSION,
        channel_order="BGR",
        mean=120.0,
        scale=64.0,
        alignment=bundle.card.contract.alignment,
        loss="arcface",
    )
    path = tmp_path_factory.mktemp("trained") / "best.pt"
    save_checkpoint(path, used(card.build()), card)
    return path


@pytest.fixture
def export(tmp_path: Path, data_dir: Path, published: tuple[Path, Path], checkpoint: Path) -> Export:
    """Exports into ``tmp_path``, within this process; the detector's file is there already."""
    assert published[0].is_file()

    def run(out: str = "mine", path: Path = checkpoint, **wishes: object) -> Card:
        return export_checkpoint(path, tmp_path / out, data_dir / "downloads", replace(OPTIONS, **wishes))

    return run


@pytest.fixture(scope="module")
def crops(recognizer: Recognizer, group_photo: bytes) -> Crops:
    image = recognizer.decode(group_photo)
    return np.stack([recognizer.crop(image, face) for face in recognizer.detect(image)])


def by_torch(path: Path, crops: Crops, fusion: Fusion = "sum") -> Vectors:
    """Unit embeddings (n, d) of the checkpoint's own network."""
    trained = load_checkpoint(path)
    backbone = trained.backbone.double()
    ordered = crops if trained.card.channel_order == "RGB" else crops[..., ::-1]
    images = (torch.from_numpy(ordered.astype(np.float64)).permute(0, 3, 1, 2) - trained.card.mean) / trained.card.scale
    with torch.no_grad():
        plain, mirrored = backbone(images), backbone(images.flip(3))
    fused = {"none": plain, "sum": plain + mirrored, "concat": torch.cat([plain, mirrored], 1)}[fusion]
    return nn.functional.normalize(fused).numpy()


def served(folder: Path) -> Engine:
    return load_engine(Settings(bundle=str(folder)))


def test_a_checkpoint_becomes_a_bundle_that_verifies_two_photos(
    tmp_path: Path, data_dir: Path, published: tuple[Path, Path], checkpoint: Path, group_photo: bytes, astronaut: bytes
) -> None:
    assert published[0].is_file()
    out = tmp_path / "bundles" / "mine"
    command = [sys.executable, "-W", "error", "-m", "export", str(checkpoint), "--detector", "yunet", "--out", str(out)]
    done = subprocess.run(
        [*command, "--data-dir", str(data_dir)], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "mine: mobilefacenet trained with arcface." in done.stdout
    assert re.search(r"cosine at least (1\.0000000|0\.99999\d\d) on 6 faces", done.stdout)
    assert [path.name for path in out.parent.iterdir()] == ["mine"]

    engine = load_engine(Settings(data_dir=tmp_path, bundle="mine"))
    decode, detect, crop = engine.recognizer.decode, engine.recognizer.detect, engine.recognizer.crop
    images = [decode(photo) for photo in (group_photo, astronaut)]
    expected = by_torch(checkpoint, np.stack([crop(image, detect(image)[0]) for image in images]))
    with TestClient(create_app(engine, Settings())) as client:

        def verify(a: bytes, b: bytes, **point: str) -> tuple[int, dict[str, object]]:
            files = {"image_a": a, "image_b": b}
            answer = client.post("/v1/verify", files=files, data={"faces": "largest", **point})
            return answer.status_code, answer.json()

        status, two = verify(group_photo, astronaut, threshold="0.9999")
        assert status == 200
        assert two["similarity"] == pytest.approx(float(expected[0] @ expected[1]), abs=1e-4)
        assert two["match"] is False
        point = two["operating_point"]
        assert (point.pop("threshold"), point.pop("extrapolated")) == (0.9999, False)
        assert set(point.values()) == {None}
        assert verify(astronaut, astronaut, threshold="0.9999")[1]["match"] is True
        for rate in ({}, {"fmr": "1e-3"}):
            status, refusal = verify(group_photo, astronaut, **rate)
            assert status == 422
            assert "no calibration" in refusal["error"]["message"]
            assert "--calibration" in refusal["error"]["message"]
        assert client.get("/v1/info").json()["operating_points"] == []


def test_the_card_says_what_was_trained(export: Export, tmp_path: Path, checkpoint: Path, bundle: Bundle) -> None:
    card = export(licence=Licence(spdx="CC0-1.0", url="https://licence.example", commercial_use=True))
    trained = load_checkpoint(checkpoint).card
    assert (card.name, card.detector.source) == ("mine", bundle.card.detector.source)
    assert (card.licence.spdx, card.licence.commercial_use) == ("MIT AND CC0-1.0", True)
    assert card.contract.preprocessing == Preprocessing(channels="BGR", mean=120.0, scale=64.0)
    assert card.contract.alignment == trained.alignment
    assert (card.contract.dimension, card.contract.fusion, card.contract.projection) == (DIMENSION, "sum", None)
    assert card.parity.min_cosine > 0.999999
    assert card.calibration is None
    # The same checkpoint gives the same embeddings, so it has the same contract; another fusion has another.
    assert export("again").embedding_contract == card.embedding_contract
    assert export("other", fusion="none").embedding_contract != card.embedding_contract
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "again", "other"}


@pytest.mark.parametrize(("fusion", "kept"), [("none", 7), ("sum", 20), ("concat", None)])
def test_a_pca_is_inside_the_graph(
    export: Export, tmp_path: Path, checkpoint: Path, crops: Crops, fusion: Fusion, kept: int | None
) -> None:
    unprojected = by_torch(checkpoint, crops, fusion)
    d = unprojected.shape[1]
    spread = np.random.default_rng(11).normal(0.1, 1 / np.arange(1, d + 1), (4 * d, d))
    fitted_to = (spread / np.linalg.norm(spread, axis=1, keepdims=True)).astype(np.float32)
    np.save(tmp_path / "embeddings.npy", fitted_to)
    card = export(fusion=fusion, pca=Pca(tmp_path / "embeddings.npy", kept))

    mean = fitted_to.astype(np.float64).mean(axis=0)
    axes = np.linalg.svd(fitted_to - mean)[2][:kept]
    projected = (unprojected - mean) @ axes.T
    projected /= np.linalg.norm(projected, axis=1, keepdims=True)
    embeddings, norms = served(tmp_path / "mine").recognizer.embedder(crops)
    assert embeddings.shape[1] == card.contract.dimension == (kept or d)
    # An axis has no sign, so the cosines are what must agree.
    assert np.abs(embeddings @ embeddings.T - projected @ projected.T).max() < 1e-4
    assert np.abs(embeddings @ embeddings.T - unprojected @ unprojected.T).max() > 0.01
    # The quality of a photo is that of the feature, whatever follows.
    plain = export("plain", fusion=fusion)
    assert plain.embedding_contract != card.embedding_contract
    np.testing.assert_allclose(norms, served(tmp_path / "plain").recognizer.embedder(crops)[1], rtol=1e-6)


def test_a_measured_calibration_gives_the_bundle_error_rates(export: Export, tmp_path: Path) -> None:
    measured = export("measured")
    file = tmp_path / "calibration.json"
    file.write_text(calibration_of(measured).model_dump_json())
    card = export("calibrated", calibration=file)
    assert card.calibration == calibration_of(measured)
    assert card.embedding_contract == measured.embedding_contract
    point = served(tmp_path / "calibrated").thresholds.choose(fmr=1e-2)
    assert (point.threshold, point.fnmr) == (0.4, 0.2)
    with pytest.raises(InvalidRequest, match=r"was measured under contract [0-9a-f]{16}….*Measure it anew"):
        export("other", fusion="concat", calibration=file)
    file.write_text("{}")
    with pytest.raises(InvalidRequest, match=r"calibration\.json cannot be read as a calibration"):
        export("other", calibration=file)


def calibration_of(card: Card) -> Calibration:
    points = (OperatingPoint(fmr=1e-1, threshold=0.3, fnmr=0.1), OperatingPoint(fmr=1e-2, threshold=0.4, fnmr=0.2))
    figures = Calibration.model_construct(
        embedding_contract=card.embedding_contract,
        detector=card.detector.source.sha256,
        dataset="made up",
        dataset_sha256="3" * 64,
        persons=10,
        photos=100,
        genuine=450,
        impostor=4500,
        points=points,
    )
    return Calibration(calibration_id=figures.digest(), **dict(figures))


@pytest.mark.parametrize(("name", "width"), [("mobilefacenet", 0.25), ("iresnet18", 0.125), ("sphereface4", 0.125)])
def test_every_family_is_exported_and_leaves_nothing_slow_behind(name: str, width: float, crops: Crops) -> None:
    backbone = used(make_backbone(name, DIMENSION, width=width))
    model = rewritten(adopt_embedder(to_onnx(backbone, 112), USUAL, "none", {}), expand_prelu)
    assert model is not None
    operators = [node.op_type for node in model.graph.node]
    assert not {"PRelu", "Identity", "Dropout"} & set(operators)
    # What follows a convolution is folded into it. IResNet's units begin with one, which padding keeps from the next
    # convolution; one precedes and one follows its linear layer, and one follows MobileFaceNet's.
    assert operators.count("BatchNormalization") == {"mobilefacenet": 1, "iresnet18": 8 + 2, "sphereface4": 0}[name]
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        images = (torch.from_numpy(crops.astype(np.float64)).permute(0, 3, 1, 2) - 127.5) / 127.5
        expected = backbone.double()(images).numpy()
    embeddings, norms = session.run(["embedding", "feature_norm"], {"crops": crops})
    assert np.abs(embeddings * norms[:, None] - expected).max() < 1e-4 * np.abs(expected).max()


def test_fresh_weights_many_of_them_equal_lose_nothing() -> None:
    # torch's exporter writes equal weights once and copies them with Identity.
    network = to_onnx(make_backbone("sphereface4", 8, width=0.1).eval(), 112)
    model = rewritten(adopt_embedder(network, USUAL, "none", {}), expand_prelu)
    assert model is not None
    assert not {"PRelu", "Identity"} & {node.op_type for node in model.graph.node}


def test_a_graph_that_is_not_the_checkpoint_makes_no_bundle(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_layer_off(backbone: nn.Module, size: int) -> object:
        with torch.no_grad():
            backbone.bottlenecks[3].project.conv.weight.mul_(1.1)
            model = to_onnx(backbone, size)
            backbone.bottlenecks[3].project.conv.weight.div_(1.1)
        return model

    monkeypatch.setattr("export.checkpoint.to_onnx", one_layer_off)
    with pytest.raises(BundleError, match=r"Parity failed: the cosine .* is 0\.9.*No bundle was made"):
        export()
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_used_is_refused_before_anything_is_made(
    export: Export, tmp_path: Path, checkpoint: Path
) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(InvalidRequest, match=r"there exists already"):
        export("there")
    with pytest.raises(InvalidRequest, match=r"'My bundle' is no name for a bundle"):
        export("My bundle")
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(checkpoint.read_bytes()[:-1000])
    with pytest.raises(InvalidRequest, match=r"damaged\.pt cannot be read as a checkpoint"):
        export(path=damaged)
    assert {path.name for path in tmp_path.iterdir()} == {"there", "damaged.pt"}


@pytest.mark.parametrize(
    ("embeddings", "kept", "complaint"),
    [
        (np.eye(DIMENSION + 1)[:, :DIMENSION][:40], None, "40 embeddings do not determine 48 components"),
        (np.eye(DIMENSION), 49, "A PCA of 48 dimensions has 2 to 48 components, not 49"),
        (np.eye(DIMENSION), 1, "components, not 1"),
        (np.eye(DIMENSION) * 2, 4, "rows that are not of unit length"),
        (np.eye(DIMENSION) * np.nan, 4, "rows that are not of unit length"),
        (np.eye(DIMENSION, dtype=np.int64), 4, r"holds no table of embeddings, float \(n, d\), but int64"),
        (np.eye(64), 4, r"holds embeddings of 64 dimensions, the embedder with fusion sum gives 48"),
    ],
)
def test_embeddings_that_no_pca_can_be_fitted_to_are_refused(
    export: Export, tmp_path: Path, embeddings: Vectors, kept: int | None, complaint: str
) -> None:
    np.save(tmp_path / "e.npy", embeddings)
    with pytest.raises(InvalidRequest, match=complaint):
        export(pca=Pca(tmp_path / "e.npy", kept))


def test_a_dimension_without_embeddings_is_refused(export: Export) -> None:
    with pytest.raises(InvalidRequest, match="A dimension of 8 needs a PCA"):
        export(pca=Pca(dimension=8))


def test_a_file_that_would_run_code_is_not_read_as_embeddings(export: Export, tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", np.array([[object()]]), allow_pickle=True)
    with pytest.raises(InvalidRequest, match=r"e\.npy cannot be read as \.npy"):
        export(pca=Pca(tmp_path / "e.npy"))


def test_every_detector_that_can_be_named_is_in_the_catalogue() -> None:
    files = load_catalog().files
    assert {files[name].role for name in DETECTORS.values()} == {"detector"}


def test_adopting_published_networks_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = sys.modules['models'] = None; import export.adopt, export.fetch"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize(
    ("given", "out", "code", "complaint"),
    [
        ("none.pt", "mine", 2, r".*none\.pt cannot be read as a checkpoint: .*"),
        ("best.pt", "file/mine", 4, r".*[Nn]ot a directory.*|.*File exists.*"),
    ],
)
def test_a_failure_is_one_line_and_a_code(
    tmp_path: Path, data_dir: Path, checkpoint: Path, given: str, out: str, code: int, complaint: str
) -> None:
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "export", str(checkpoint.with_name(given)), "--detector", "yunet"]
    command += ["--out", str(tmp_path / out), "--data-dir", str(data_dir)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code
    assert re.fullmatch(rf"export: ({complaint})\n", done.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
