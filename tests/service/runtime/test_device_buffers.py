"""The path of a GPU, with buffers on the CPU, which captures nothing but is driven in the same way."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from service.runtime.bundle import Bundle
from service.runtime.device_buffers import BoundSession, Captured, Device
from service.runtime.networks import DETECTOR_OUTPUTS, DETECTOR_SHAPES, RuntimeOptions
from service.runtime.providers import CPU
from service.runtime.sessions import open_session

HERE = Device("cpu")
GRAPHS = Captured((1, 2, 4), 64)


@pytest.fixture(scope="module")
def session(bundle: Bundle) -> ort.InferenceSession:
    return open_session(bundle.detector, "detector", CPU, RuntimeOptions(), DETECTOR_SHAPES)


def photos(count: int, shape: tuple[int, ...]) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(2)
    return [rng.integers(0, 256, shape).astype(np.uint8) for _ in range(count)]


def direct(session: ort.InferenceSession, photo: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    return list(session.run(list(DETECTOR_OUTPUTS), {"images": photo}))


def test_answers_are_those_of_the_session_and_stay_as_they_are(session: ort.InferenceSession) -> None:
    bound = BoundSession(session, DETECTOR_OUTPUTS, HERE)
    asked = [*photos(3, (2, 64, 96, 3)), *photos(2, (1, 32, 32, 3))]
    answers = [bound(photo) for photo in asked]
    # Compared only after the buffers have been used again.
    for photo, answer in zip(asked, answers, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(answer, direct(session, photo), strict=True))
    assert bound.kept == [(2, 64, 96, 3), (1, 32, 32, 3)]


def test_a_view_that_is_not_contiguous_is_read_rightly(session: ort.InferenceSession) -> None:
    [photo] = photos(1, (1, 64, 64, 3))
    turned = photo[:, ::-1, :, ::-1]
    answer = BoundSession(session, DETECTOR_OUTPUTS, HERE)(turned)
    assert np.array_equal(answer[1], direct(session, np.ascontiguousarray(turned))[1])


def test_buffers_are_bounded_and_the_one_used_least_lately_goes_first(session: ort.InferenceSession) -> None:
    small, wide, tall = ((1, 32, 32, 3), (1, 32, 64, 3), (1, 64, 32, 3))
    bound = BoundSession(session, DETECTOR_OUTPUTS, HERE, most_bytes=32 * 32 * 3 * 4)
    for shape in (small, wide, small, tall):
        bound(photos(1, shape)[0])
    assert bound.kept == [small, tall]
    # One that alone is larger is run all the same.
    [large] = photos(1, (1, 160, 160, 3))
    assert np.array_equal(bound(large)[0], direct(session, large)[0])
    assert bound.kept == [(1, 160, 160, 3)]


def test_callers_at_once_get_their_own_answers(session: ort.InferenceSession) -> None:
    bound = BoundSession(session, DETECTOR_OUTPUTS, HERE)
    asked = photos(24, (1, 32, 64, 3))
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(bound, asked))
    for photo, answer in zip(asked, answers, strict=True):
        assert np.array_equal(answer[1], direct(session, photo)[1])


@pytest.mark.parametrize(
    ("shape", "filled"),
    [
        ((1, 64, 64, 3), (1, 64, 64, 3)),
        ((3, 64, 32, 3), (4, 64, 32, 3)),
        ((5, 64, 64, 3), None),
        ((1, 96, 64, 3), None),
        ((1, 64, 96, 3), None),
    ],
)
def test_small_images_in_common_batches_are_run_as_graphs(
    shape: tuple[int, ...], filled: tuple[int, ...] | None
) -> None:
    assert GRAPHS.shape_for(shape) == filled


def test_batches_are_filled_up_and_nobody_sees_what_they_are_filled_with(session: ort.InferenceSession) -> None:
    bound = BoundSession(session, DETECTOR_OUTPUTS, HERE, GRAPHS)
    for count in (3, 4, 1, 3, 2, 3):
        [asked] = photos(1, (count, 64, 32, 3))
        for found, expected in zip(bound(asked), direct(session, asked), strict=True):
            assert found.shape == expected.shape
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert bound.graphs == [(4, 64, 32, 3), (1, 64, 32, 3), (2, 64, 32, 3)]
    # Others keep to the plain way.
    [large] = photos(1, (1, 96, 96, 3))
    assert np.array_equal(bound(large)[0], direct(session, large)[0])
    assert len(bound.graphs) == 3


def test_answers_of_graphs_belong_to_who_asked(session: ort.InferenceSession) -> None:
    bound = BoundSession(session, DETECTOR_OUTPUTS, HERE, GRAPHS)
    asked = photos(12, (2, 64, 32, 3))
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(bound, asked))
    for photo, answer in zip(asked, answers, strict=True):
        np.testing.assert_allclose(answer[1], direct(session, photo)[1], rtol=1e-4, atol=1e-4)


def test_no_more_graphs_are_kept_than_there_may_be(session: ort.InferenceSession) -> None:
    bound = BoundSession(session, DETECTOR_OUTPUTS, HERE, Captured((1,), 64, most=2))
    for side in (32, 64):
        bound(photos(1, (1, side, 64, 3))[0])
    [third] = photos(1, (1, 64, 32, 3))
    assert np.array_equal(bound(third)[0], direct(session, third)[0])
    assert bound.graphs == [(1, 32, 64, 3), (1, 64, 64, 3)]


class Replaying:
    """A session that does with graphs what a CPU cannot show: give the answer of the capture for ever, or refuse."""

    def __init__(self, session: ort.InferenceSession, refuses: bool) -> None:
        self._session, self._refuses = session, refuses
        self._captured: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: ort.IOBinding, options: ort.RunOptions) -> None:
        graph = options.get_run_config_entry("gpu_graph_id")
        if graph != "-1" and self._refuses:
            raise RuntimeError("operation not permitted when stream is capturing")
        if graph not in self._captured:
            self._session.run_with_iobinding(binding, options)
        if graph != "-1":
            self._captured.add(graph)


@pytest.mark.parametrize(("refuses", "why"), [(True, "not permitted"), (False, "is off by")])
def test_graphs_that_fail_or_lie_are_given_up_with_a_reason(
    session: ort.InferenceSession, caplog: pytest.LogCaptureFixture, refuses: bool, why: str
) -> None:
    bound = BoundSession(Replaying(session, refuses), DETECTOR_OUTPUTS, HERE, GRAPHS)
    for asked in photos(3, (3, 64, 64, 3)):
        np.testing.assert_allclose(bound(asked)[1], direct(session, asked)[1], rtol=1e-4, atol=1e-4)
    assert bound.graphs == []
    [said] = [record.message for record in caplog.records if "without CUDA graphs" in record.message]
    assert why in said
