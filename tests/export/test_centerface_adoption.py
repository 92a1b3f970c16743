"""CenterFace adopted, against the published file run by OpenCV as its authors do, decoded cell by cell.

The weights are free (MIT); the first run fetches them.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from export.adopt import adopt
from export.catalog import load_catalog
from export.centerface import adopt_centerface
from export.fetch import fetch_all
from export.graph import load_network
from service.engine import Engine, load_engine
from service.errors import BundleError
from service.recognition.recognizer import Recognizer
from service.settings import Settings

Pixels = NDArray[np.uint8]
Found = list[NDArray[np.float32]]
SIZES = [(32, 32), (64, 32), (96, 416), (320, 480)]  # height, width


@pytest.fixture(scope="module")
def files(data_dir: Path) -> list[Path]:
    return fetch_all(load_catalog().bundle("centerface").files, data_dir / "downloads")


@pytest.fixture(scope="module")
def session(files: list[Path], session_of: Callable[[bytes], ort.InferenceSession]) -> ort.InferenceSession:
    return session_of(adopt_centerface(load_network(files[0]), {}).SerializeToString())


@pytest.fixture(scope="module")
def centerface(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = adopt(load_catalog().bundle("centerface"), *files, tmp_path_factory.mktemp("centerface"))
    return load_engine(Settings(bundle=str(folder)))


@pytest.fixture(scope="module")
def group(group_photo: bytes) -> Pixels:
    return np.ascontiguousarray(cv2.imdecode(np.frombuffer(group_photo, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1])


def detect(session: ort.InferenceSession, images: Pixels) -> Found:
    return session.run(["boxes", "scores", "landmarks"], {"images": images})


def peer(file: Path, image: Pixels) -> tuple[NDArray[np.float64], ...]:
    network = cv2.dnn.readNetFromONNX(str(file))
    network.setInput(cv2.dnn.blobFromImage(image))
    heat, scale, offset, points = (m[0].astype(np.float64) for m in network.forward(["537", "538", "539", "540"]))
    boxes, scores, landmarks = [], [], []
    for row, column in np.ndindex(*heat.shape[1:]):
        height, width = np.exp(scale[:, row, column]) * 4
        left = (column + offset[1, row, column] + 0.5) * 4 - width / 2
        top = (row + offset[0, row, column] + 0.5) * 4 - height / 2
        boxes.append([left, top, left + width, top + height])
        scores.append(heat[0, row, column])
        five = points[:, row, column]
        landmarks.append([[left + five[2 * i + 1] * width, top + five[2 * i] * height] for i in range(5)])
    return np.array(boxes), np.array(scores), np.array(landmarks)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_every_cell_is_that_of_the_published_network(
    session: ort.InferenceSession, files: list[Path], group: Pixels, size: tuple[int, int]
) -> None:
    height, width = size
    part = cv2.resize(group[100:500, 300:800], (width, height), interpolation=cv2.INTER_AREA)
    expected = peer(files[0], part)
    assert len(expected[1]) == height * width // 16
    found = detect(session, part[None])
    for name, ours, theirs, most in zip(
        ("boxes", "scores", "landmarks"), found, expected, (0.02, 1e-4, 0.02), strict=True
    ):
        assert ours.dtype == np.float32
        assert ours[0].shape == theirs.shape, name
        # Where there is a face: elsewhere sizes mean nothing, and exp makes what float32 rounds off large.
        assert np.abs(ours[0] - theirs)[expected[1] > 0.02].max(initial=0) < most, name
    if size == (320, 480):
        assert expected[1].max() > 0.5


def test_a_batch_of_different_photos_equals_each_alone(session: ort.InferenceSession, group: Pixels) -> None:
    batch = np.stack([group[100:420, 200:648], group[300:620, 600:1048], group[200:520, 400:848]])
    together = detect(session, batch)
    for i, image in enumerate(batch):
        for of_batch, of_one in zip(together, detect(session, image[None]), strict=True):
            assert np.abs(of_batch[i] - of_one[0]).max() < 1e-3
    assert np.abs(together[1][0] - together[1][1]).max() > 0.01


def test_it_takes_uint8_images_of_any_size(session: ort.InferenceSession) -> None:
    [only] = session.get_inputs()
    assert (only.name, only.type, only.shape) == ("images", "tensor(uint8)", ["n", "h", "w", 3])


def test_the_recognizer_finds_each_face_once_and_where_yunet_does(
    centerface: Engine, recognizer: Recognizer, group_photo: bytes
) -> None:
    """A face lights up several cells of the map; one box must come of them."""
    photo = centerface.recognizer.decode(group_photo)
    [boxes], [scores], _ = centerface.recognizer.detector(np.ascontiguousarray(photo.pixels[None, 64:704, :1280]))
    assert (scores > 0.6).sum() > 6
    faces, expected = centerface.recognizer.detect(photo), recognizer.detect(photo)
    assert len(faces) == len(expected) == 6
    for face in faces:
        offsets = [np.abs(face.landmarks - other.landmarks).max() / other.size for other in expected]
        assert min(offsets) < 0.15
    assert len(boxes) == 640 * 1280 // 16


@pytest.mark.parametrize("width", [16, 24, 40, 90, 300])
def test_a_face_of_any_size_is_one_face(centerface: Engine, astronaut: bytes, width: int) -> None:
    """Small faces lie in few cells, whose boxes overlap little; large ones in hundreds."""
    photo = centerface.recognizer.decode(astronaut)
    scale = width / 90
    pixels = cv2.resize(photo.pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    [face] = centerface.recognizer.detect(type(photo)(pixels))
    assert abs(np.log((face.box[2] - face.box[0]) / width)) < 0.3
    left, right = face.landmarks[:2]
    assert left[0] < right[0]


def test_neither_an_embedder_nor_another_detector_is_taken_for_it(
    tiny_embedder: Path, published: tuple[Path, Path]
) -> None:
    for path, planes in ((tiny_embedder, r"\[0\]"), (published[0], r"\[0, 0, 0, .*")):
        with pytest.raises(BundleError, match=rf"This is not CenterFace: 1 inputs and outputs of {planes}.* expected"):
            adopt_centerface(load_network(path), {})
