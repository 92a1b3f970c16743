"""The real networks of ``buffalo_s``, where somebody has obtained them, against ``insightface`` itself."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
import pytest
from insightface.model_zoo.arcface_onnx import ArcFaceONNX
from insightface.model_zoo.scrfd import SCRFD
from numpy.typing import NDArray

from export.adopt import adopt
from export.catalog import load_catalog
from service.engine import Engine, load_engine
from service.recognition.types import Image
from service.settings import Settings

Files = tuple[Path, Path]
Open = Callable[[bytes], ort.InferenceSession]


@pytest.fixture(scope="module")
def engine(buffalo_s_files: Files, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = adopt(load_catalog().bundle("buffalo_s"), *buffalo_s_files, tmp_path_factory.mktemp("buffalo_s"))
    return load_engine(Settings(bundle=str(folder)))


@pytest.fixture(scope="module")
def photo(engine: Engine, group_photo: bytes) -> Image:
    return engine.recognizer.decode(group_photo)


def test_every_anchor_is_that_of_insightface(
    engine: Engine, buffalo_s_files: Files, session_of: Open, photo: Image
) -> None:
    peer = SCRFD(str(buffalo_s_files[0]), session_of(buffalo_s_files[0].read_bytes()), static_shape_sessions=False)
    views = np.stack([photo.pixels[100:740, 0:640], photo.pixels[200:840, 500:1140]])
    found = engine.recognizer.detector(views)
    for i, view in enumerate(views):
        scores, boxes, points = (np.concatenate(p) for p in peer.forward(np.ascontiguousarray(view[:, :, ::-1]), 0.0))
        assert (scores > 0.6).sum() > 2
        for ours, expected in zip(found, (boxes, scores[:, 0], points), strict=True):
            assert np.abs(ours[i] - expected).max() < 2e-3


def test_the_recognizer_finds_the_faces_that_insightface_finds(
    engine: Engine, buffalo_s_files: Files, session_of: Open, photo: Image
) -> None:
    peer = SCRFD(str(buffalo_s_files[0]), session_of(buffalo_s_files[0].read_bytes()), static_shape_sessions=False)
    found, points = peer.detect(np.ascontiguousarray(photo.pixels[:, :, ::-1]), input_size=(640, 640))
    faces = engine.recognizer.detect(photo)
    assert len(faces) == len(found) == 6
    for face in faces:
        nearest = points[np.abs(points - face.landmarks).sum(axis=(1, 2)).argmin()]
        assert np.abs(face.landmarks - nearest).max() < 0.1 * face.size


def test_embeddings_are_the_sum_of_both_mirror_images(
    engine: Engine, buffalo_s_files: Files, session_of: Open, photo: Image
) -> None:
    peer = ArcFaceONNX(str(buffalo_s_files[1]), session_of(buffalo_s_files[1].read_bytes()))
    crops = [engine.recognizer.crop(photo, face) for face in engine.recognizer.detect(photo)]
    embeddings, norms = engine.recognizer.embed_crops(crops)
    assert embeddings.shape == (6, 512)
    for crop, embedding, norm in zip(crops, embeddings, norms, strict=True):
        views = [np.ascontiguousarray(view[:, :, ::-1]) for view in (crop, cv2.flip(crop, 1))]
        feature: NDArray[np.float64] = sum(peer.get_feat(view)[0].astype(np.float64) for view in views)
        assert abs(norm / np.linalg.norm(feature) - 1) < 1e-5
        assert np.abs(embedding - feature / np.linalg.norm(feature)).max() < 2e-6
    # Six people: each is like itself and unlike the others, so that equal is not all the same.
    assert np.abs(embeddings @ embeddings.T - np.eye(6)).max() < 0.4
