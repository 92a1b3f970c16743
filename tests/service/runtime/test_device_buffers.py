"""The path of a GPU, with buffers on the CPU."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from service.runtime.bundle import Bundle
from service.runtime.device_buffers import BoundSession
from service.runtime.networks import DETECTOR_OUTPUTS, DETECTOR_SHAPES, RuntimeOptions
from service.runtime.providers import CPU
from service.runtime.sessions import open_session


@pytest.fixture(scope="module")
def session(bundle: Bundle) -> ort.InferenceSession:
    return open_session(bundle.detector, "detector", CPU, RuntimeOptions(), DETECTOR_SHAPES)


def photos(count: int, shape: tuple[int, ...]) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(2)
    return [rng.integers(0, 256, shape).astype(np.uint8) for _ in range(count)]


def direct(session: ort.InferenceSession, photo: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    return list(session.run(list(DETECTOR_OUTPUTS), {"images": photo}))


def test_answers_are_those_of_the_session_and_stay_as_they_are(session: ort.InferenceSession) -> None:
    bound = BoundSession(session, DETECTOR_OUTPUTS, "cpu", 0)
    asked = [*photos(3, (2, 64, 96, 3)), *photos(2, (1, 32, 32, 3))]
    answers = [bound(photo) for photo in asked]
    # Compared only after the buffers have been used again.
    for photo, answer in zip(asked, answers, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(answer, direct(session, photo), strict=True))
    assert bound.kept == [(2, 64, 96, 3), (1, 32, 32, 3)]


def test_a_view_that_is_not_contiguous_is_read_rightly(session: ort.InferenceSession) -> None:
    [photo] = photos(1, (1, 64, 64, 3))
    turned = photo[:, ::-1, :, ::-1]
    answer = BoundSession(session, DETECTOR_OUTPUTS, "cpu", 0)(turned)
    assert np.array_equal(answer[1], direct(session, np.ascontiguousarray(turned))[1])


def test_buffers_are_bounded_and_the_one_used_least_lately_goes_first(session: ort.InferenceSession) -> None:
    small, wide, tall = ((1, 32, 32, 3), (1, 32, 64, 3), (1, 64, 32, 3))
    bound = BoundSession(session, DETECTOR_OUTPUTS, "cpu", 0, most_bytes=32 * 32 * 3 * 4)
    for shape in (small, wide, small, tall):
        bound(photos(1, shape)[0])
    assert bound.kept == [small, tall]
    # One that alone is larger is run all the same.
    [large] = photos(1, (1, 160, 160, 3))
    assert np.array_equal(bound(large)[0], direct(session, large)[0])
    assert bound.kept == [(1, 160, 160, 3)]


def test_callers_at_once_get_their_own_answers(session: ort.InferenceSession) -> None:
    bound = BoundSession(session, DETECTOR_OUTPUTS, "cpu", 0)
    asked = photos(24, (1, 32, 64, 3))
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(bound, asked))
    for photo, answer in zip(asked, answers, strict=True):
        assert np.array_equal(answer[1], direct(session, photo)[1])
