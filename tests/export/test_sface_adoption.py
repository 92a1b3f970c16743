"""SFace adopted, against SFace as it was published, on real faces."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from export.embedder import PLAIN, adopt_embedder
from export.graph import load_network
from service.recognition.recognizer import Recognizer

Crops = NDArray[np.uint8]
Embedded = tuple[NDArray[np.float32], NDArray[np.float32]]


@pytest.fixture(scope="module")
def faces(recognizer: Recognizer, group_photo: bytes, astronaut: bytes) -> Crops:
    """Six people of the group photo and the astronaut, aligned."""
    photos = [recognizer.decode(content) for content in (group_photo, astronaut)]
    return np.stack([recognizer.crop(photo, face) for photo in photos for face in recognizer.detect(photo)])


@pytest.fixture(scope="module")
def model(published: tuple[Path, Path]) -> onnx.ModelProto:
    return adopt_embedder(load_network(published[1]), PLAIN, "sum", {})


@pytest.fixture(scope="module")
def session(model: onnx.ModelProto, session_of: Callable[[bytes], ort.InferenceSession]) -> ort.InferenceSession:
    return session_of(model.SerializeToString())


@pytest.fixture(scope="module")
def features(
    published: tuple[Path, Path], session_of: Callable[[bytes], ort.InferenceSession], faces: Crops
) -> NDArray[np.float64]:
    """Of the published file: one crop at a time, and its mirror image, added in float64."""
    whole = session_of(published[1].read_bytes())

    def one(pixels: Crops) -> NDArray[np.float64]:
        planes = pixels.transpose(2, 0, 1)[None].astype(np.float32)
        return whole.run(["fc1"], {"data": planes})[0][0].astype(np.float64)

    return np.stack([one(crop) + one(crop[:, ::-1]) for crop in faces])


def embed(session: ort.InferenceSession, crops: Crops) -> Embedded:
    embedding, norm = session.run(["embedding", "feature_norm"], {"crops": crops})
    return embedding, norm


def test_adopted_sface_gives_what_published_sface_gives(
    session: ort.InferenceSession, features: NDArray[np.float64], faces: Crops
) -> None:
    assert len(faces) == 7
    lengths = np.linalg.norm(features, axis=1)
    expected = features / lengths[:, None]
    embeddings, norms = embed(session, faces)
    assert (expected * embeddings).sum(axis=1).min() >= 0.99999
    assert np.abs(expected - embeddings).max() < 1e-5
    assert np.abs(norms / lengths - 1).max() < 1e-5
    # Different people are far apart, so equality above means something.
    assert (expected @ expected.T)[~np.eye(7, dtype=bool)].max() < 0.9


@pytest.mark.parametrize("n", [2, 3, 7])
def test_a_batch_equals_the_same_crops_alone(session: ort.InferenceSession, faces: Crops, n: int) -> None:
    alone = [embed(session, crop[None]) for crop in faces[:n]]
    embeddings, norms = embed(session, faces[:n])
    assert np.abs(embeddings - np.concatenate([a[0] for a in alone])).max() < 1e-6
    assert np.abs(norms / np.concatenate([a[1] for a in alone]) - 1).max() < 1e-5


def test_a_face_is_embedded_alike_wherever_it_stands_in_the_batch(session: ort.InferenceSession, faces: Crops) -> None:
    order = np.array([4, 0, 6, 2, 5, 1, 3])
    assert np.abs(embed(session, faces[order])[0] - embed(session, faces)[0][order]).max() < 1e-6


def test_a_mirrored_face_has_the_same_embedding(session: ort.InferenceSession, faces: Crops) -> None:
    mirrored = np.ascontiguousarray(faces[:, :, ::-1])
    assert not np.array_equal(mirrored, faces)
    assert np.abs(embed(session, mirrored)[0] - embed(session, faces)[0]).max() < 1e-5


def test_adopted_sface_takes_uint8_only_and_has_no_weights_among_its_inputs(
    published: tuple[Path, Path], model: onnx.ModelProto, session: ort.InferenceSession, faces: Crops
) -> None:
    assert len(onnx.load(str(published[1])).graph.input) == 175
    assert [i.name for i in model.graph.input] == ["crops"]
    [only] = session.get_inputs()
    assert (only.type, only.shape) == ("tensor(uint8)", ["n", 112, 112, 3])
    with pytest.raises(Exception, match=r"Unexpected input data type.*expected: \(tensor\(uint8\)\)"):
        session.run(None, {"crops": faces.astype(np.float32)})


def test_adoption_is_reproducible_to_the_byte(published: tuple[Path, Path], model: onnx.ModelProto) -> None:
    again = adopt_embedder(load_network(published[1]), PLAIN, "sum", {})
    assert again.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
