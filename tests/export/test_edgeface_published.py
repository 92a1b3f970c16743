"""The real EdgeFace-S, where somebody has obtained it: attention whose file says a batch of 1 in a dozen places."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from export.adopt import adopt
from export.catalog import load_catalog
from export.fetch import cached_path
from service.engine import load_engine
from service.recognition.recognizer import Recognizer
from service.settings import Settings


def test_a_batch_is_the_published_network_one_crop_at_a_time(
    data_dir: Path, published: tuple[Path, Path], recognizer: Recognizer, group_photo: bytes, tmp_path: Path
) -> None:
    recipe = load_catalog().bundle("edgeface")
    file = cached_path(recipe.embedder, data_dir / "downloads")
    if not file.is_file():
        spdx = recipe.embedder.licence.spdx
        pytest.skip(f"not there: `likeness pull edgeface --accept-license {spdx} --data-dir {data_dir}` obtains it")
    engine = load_engine(Settings(bundle=str(adopt(recipe, published[0], file, tmp_path))))
    photo = recognizer.decode(group_photo)
    crops = np.stack([recognizer.crop(photo, face) for face in recognizer.detect(photo)])
    embeddings, norms = engine.recognizer.embedder(crops)

    session = ort.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    planes = ((crops.astype(np.float64) - 127.5) / 127.5).transpose(0, 3, 1, 2)
    for i, plane in enumerate(planes):
        views = [np.ascontiguousarray(view[None], np.float32) for view in (plane, plane[:, :, ::-1])]
        feature = sum(session.run(None, {"data": view})[0][0].astype(np.float64) for view in views)
        assert abs(norms[i] / np.linalg.norm(feature) - 1) < 1e-5
        assert np.abs(embeddings[i] - feature / np.linalg.norm(feature)).max() < 2e-6
    # Six people: each is like itself and unlike the others, so that equal is not all the same.
    assert np.abs(embeddings @ embeddings.T - np.eye(6)).max() < 0.5
