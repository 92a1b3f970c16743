"""YuNet adopted, against OpenCV's own ``FaceDetectorYN`` on the published file."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from export.graph import load_network
from export.yunet import adopt_yunet
from service.errors import BundleError

Pixels = NDArray[np.uint8]
Anchors = NDArray[np.float64]  # (a, 15): x, y, width, height, five landmarks, score

# Every anchor that either side scores above this is compared, not only the faces that are left after suppression.
LEAST_SCORE = 0.02
SIZES = [(32, 32), (64, 32), (96, 416), (256, 256), (640, 480), (320, 1024)]  # height, width


@pytest.fixture(scope="module")
def session(published: tuple[Path, Path], session_of: Callable[[bytes], ort.InferenceSession]) -> ort.InferenceSession:
    return session_of(adopt_yunet(load_network(published[0]), {}).SerializeToString())


@pytest.fixture(scope="module", params=["group_photo", "astronaut"])
def photo(request: pytest.FixtureRequest) -> Pixels:
    return rgb(request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def group(group_photo: bytes) -> Pixels:
    return rgb(group_photo)


def rgb(content: bytes) -> Pixels:
    return np.ascontiguousarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1])


def padded(image: Pixels) -> Pixels:
    """Black to the right and below, up to a multiple of 32: what ``FaceDetectorYN`` does inside."""
    height, width = image.shape[:2]
    return np.pad(image, ((0, -height % 32), (0, -width % 32), (0, 0)))


def peer(published: tuple[Path, Path], image: Pixels) -> Anchors:
    """All that OpenCV finds above the least score; with an overlap of 1 allowed, nothing is suppressed."""
    height, width = image.shape[:2]
    detector = cv2.FaceDetectorYN.create(str(published[0]), "", (width, height), LEAST_SCORE, 1.0, 100_000)
    _, found = detector.detect(np.ascontiguousarray(image[:, :, ::-1]))
    return np.zeros((0, 15)) if found is None else found.astype(np.float64)


def detect(session: ort.InferenceSession, images: Pixels) -> list[NDArray[np.float32]]:
    return session.run(["boxes", "scores", "landmarks"], {"images": images})


def ours(session: ort.InferenceSession, image: Pixels) -> Anchors:
    boxes, scores, landmarks = (part[0].astype(np.float64) for part in detect(session, image[None]))
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.concatenate([boxes[:, :2], sides, landmarks.reshape(-1, 10), scores[:, None]], axis=1)


def compare(found: Anchors, expected: Anchors) -> None:
    """One for one. A score within rounding of the threshold may fall on either side of it."""
    found = found[found[:, 14] >= LEAST_SCORE - 1e-4]
    distance = np.abs(found[:, None, :14] - expected[None, :, :14]).max(axis=2)
    partner = distance.argmin(axis=0)
    assert len(set(partner)) == len(expected)
    assert distance.min(axis=0).max(initial=0) < 0.01
    assert np.abs(found[partner, 14] - expected[:, 14]).max(initial=0) < 1e-4
    alone = np.setdiff1d(np.arange(len(found)), partner)
    assert np.all(found[alone, 14] < LEAST_SCORE + 1e-4)


def test_boxes_landmarks_and_scores_are_those_of_opencv(
    published: tuple[Path, Path], session: ort.InferenceSession, photo: Pixels
) -> None:
    expected = peer(published, photo)
    assert len(expected) > 90
    assert expected[:, 14].max() > 0.85
    compare(ours(session, padded(photo)), expected)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_every_size_gives_what_opencv_gives(
    published: tuple[Path, Path], session: ort.InferenceSession, group: Pixels, size: tuple[int, int]
) -> None:
    height, width = size
    # Two of the faces, stretched to the size; at 32 × 32 there is little left to find.
    part = cv2.resize(group[100:500, 300:800], (width, height), interpolation=cv2.INTER_AREA)
    expected = peer(published, part)
    assert len(expected) or height * width < 10_000
    compare(ours(session, part), expected)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_anchors_come_by_stride_and_then_row_by_row(session: ort.InferenceSession, size: tuple[int, int]) -> None:
    height, width = size
    boxes, scores, landmarks = detect(session, np.zeros((2, height, width, 3), np.uint8))
    anchors = sum(height * width // stride**2 for stride in (8, 16, 32))
    assert (boxes.shape, scores.shape, landmarks.shape) == ((2, anchors, 4), (2, anchors), (2, anchors, 5, 2))
    assert {part.dtype for part in (boxes, scores, landmarks)} == {np.dtype(np.float32)}
    assert scores.min() >= 0
    assert scores.max() <= 1


def test_the_first_landmark_is_the_eye_on_the_left_of_the_photo(session: ort.InferenceSession, group: Pixels) -> None:
    boxes, scores, landmarks = (part[0] for part in detect(session, padded(group)[None]))
    sure = scores > 0.8
    assert sure.sum() >= 6
    left_eye, right_eye, nose, left_mouth, right_mouth = landmarks[sure].transpose(1, 0, 2)
    assert np.all(left_eye[:, 0] < right_eye[:, 0])
    assert np.all(left_mouth[:, 0] < right_mouth[:, 0])
    assert np.all((left_eye[:, 1] < nose[:, 1]) & (nose[:, 1] < left_mouth[:, 1]))
    assert np.all((boxes[sure, 0] < nose[:, 0]) & (nose[:, 0] < boxes[sure, 2]))


def test_a_batch_of_different_photos_equals_each_alone(
    session: ort.InferenceSession, group: Pixels, astronaut: bytes
) -> None:
    other = rgb(astronaut)
    batch = np.stack([group[100:420, 200:648], other[:320, 32:480], group[300:620, 600:1048], other[30:350, :448]])
    together = detect(session, batch)
    assert together[1].max(axis=1).min() > 0.3, "each photo shows something"
    for i, image in enumerate(batch):
        alone = detect(session, image[None])
        assert np.abs(together[1][i] - alone[1][0]).max() < 1e-5
        for of_batch, of_one in ((together[0][i], alone[0][0]), (together[2][i], alone[2][0])):
            assert np.abs(of_batch - of_one).max() < 0.005


def test_adopted_yunet_takes_uint8_images_of_any_size(session: ort.InferenceSession) -> None:
    [only] = session.get_inputs()
    assert (only.name, only.type, only.shape) == ("images", "tensor(uint8)", ["n", "h", "w", 3])
    with pytest.raises(Exception, match=r"Unexpected input data type.*expected: \(tensor\(uint8\)\)"):
        session.run(None, {"images": np.zeros((1, 32, 32, 3), np.float32)})


def test_another_network_is_not_taken_for_yunet(published: tuple[Path, Path]) -> None:
    with pytest.raises(BundleError, match=r"This is not YuNet: outputs \['fc1'\], expected \['bbox_16', 'bbox_32'"):
        adopt_yunet(load_network(published[1]), {})


def test_a_yunet_without_one_of_its_outputs_is_refused(published: tuple[Path, Path]) -> None:
    model = load_network(published[0])
    kept = [output for output in model.graph.output if output.name != "kps_32"]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    with pytest.raises(BundleError, match="This is not YuNet: outputs"):
        adopt_yunet(model, {})


def test_a_yunet_of_two_inputs_is_refused(published: tuple[Path, Path]) -> None:
    model = load_network(published[0])
    model.graph.input.append(onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, [1]))
    with pytest.raises(BundleError, match="This is not YuNet: 2 inputs, expected 1"):
        adopt_yunet(model, {})
