"""The arithmetic on proposals against loops over every pair of boxes."""

import numpy as np
import pytest
from numpy.typing import NDArray

from service.recognition.proposals import Proposals, covered, join, propose, repeated, suppress, view_matrix

Box = tuple[float, float, float, float]


def random_proposals(count: int, seed: int) -> Proposals:
    """Boxes with corners on whole pixels, so that areas are exact; scores with many ties."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(-20, 120, (count, 2))
    boxes = np.hstack([corners, corners + rng.integers(1, 80, (count, 2))]).astype(np.float32)
    landmarks = rng.uniform(0, 200, (count, 5, 2)).astype(np.float32)
    scores = (rng.integers(0, 20, count) / 20).astype(np.float32)
    return Proposals(boxes, landmarks, scores, rng.random(count) < 0.5)


def proposals_of(boxes: list[Box], scores: list[float]) -> Proposals:
    count = len(boxes)
    return Proposals(
        np.array(boxes, np.float32).reshape(count, 4),
        np.zeros((count, 5, 2), np.float32),
        np.array(scores, np.float32),
        np.zeros(count, bool),
    )


def area(box: NDArray[np.float32]) -> float:
    x1, y1, x2, y2 = (float(v) for v in box)
    return (x2 - x1) * (y2 - y1)


def shared(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    width = min(float(a[2]), float(b[2])) - max(float(a[0]), float(b[0]))
    height = min(float(a[3]), float(b[3])) - max(float(a[1]), float(b[1]))
    return max(width, 0.0) * max(height, 0.0)


def survivors(proposals: Proposals, max_overlap: float, max_contained: float) -> list[int]:
    """From best to worst, each that none of those kept so far covers."""
    kept: list[int] = []
    for i in sorted(range(len(proposals)), key=lambda i: (-float(proposals.scores[i]), i)):
        box = proposals.boxes[i]
        alone = True
        for j in kept:
            common = shared(box, proposals.boxes[j])
            union = area(box) + area(proposals.boxes[j]) - common
            smaller = min(area(box), area(proposals.boxes[j]))
            alone &= common / union <= max_overlap and common / smaller <= max_contained
        if alone:
            kept.append(i)
    return kept


@pytest.mark.parametrize(("max_overlap", "max_contained"), [(0.3, 1.0), (0.3, 0.7), (0.5, 0.9), (0.0, 1.0), (1.0, 1.0)])
@pytest.mark.parametrize("seed", range(8))
def test_suppression_is_that_of_loops_over_all_pairs(seed: int, max_overlap: float, max_contained: float) -> None:
    proposals = random_proposals(60, seed)
    expected = proposals.take(np.array(survivors(proposals, max_overlap, max_contained)))
    found = suppress(proposals, max_overlap, max_contained)
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.landmarks, expected.landmarks)
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.clear, expected.clear)
    assert len(found) == 60 if max_overlap == 1.0 else 0 < len(found) < 60


def test_a_box_inside_a_larger_one_goes_only_when_containment_counts() -> None:
    nested = proposals_of([(0, 0, 100, 100), (40, 40, 50, 50)], [0.9, 0.8])
    assert len(suppress(nested, 0.3)) == 2
    assert len(suppress(nested, 0.3, 0.7)) == 1


def test_the_better_score_stays_and_not_the_larger_box() -> None:
    nested = proposals_of([(0, 0, 100, 100), (5, 5, 95, 95)], [0.6, 0.8])
    np.testing.assert_array_equal(suppress(nested, 0.3).boxes, [[5, 5, 95, 95]])


def test_boxes_that_only_touch_both_stay() -> None:
    assert len(suppress(proposals_of([(0, 0, 10, 10), (10, 0, 20, 10)], [0.9, 0.9]), 0.0, 0.0)) == 2


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.9])
@pytest.mark.parametrize("seed", range(8))
def test_covered_is_that_of_loops_over_all_pairs(seed: int, share: float) -> None:
    some, by = random_proposals(50, seed), random_proposals(12, seed + 100)
    expected = [any(shared(box, other) > share * area(box) for other in by.boxes) for box in some.boxes]
    np.testing.assert_array_equal(covered(some, by, share), expected)
    assert len(set(expected)) == 2


def test_what_covers_a_larger_box_does_not_cover_it_whole() -> None:
    large, small = proposals_of([(0, 0, 100, 100)], [0.9]), proposals_of([(10, 10, 30, 30)], [0.9])
    assert covered(small, large, 0.7).tolist() == [True]
    assert covered(large, small, 0.7).tolist() == [False]


@pytest.mark.parametrize("max_overlap", [0.0, 0.2, 0.4])
@pytest.mark.parametrize("seed", range(8))
def test_repeated_is_that_of_loops_over_all_pairs(seed: int, max_overlap: float) -> None:
    some, by = random_proposals(50, seed), random_proposals(12, seed + 100)
    expected = []
    for box in some.boxes:
        common = [(shared(box, other), area(box) + area(other)) for other in by.boxes]
        expected.append(any(both / (areas - both) > max_overlap for both, areas in common))
    np.testing.assert_array_equal(repeated(some, by, max_overlap), expected)
    assert len(set(expected)) == 2


def test_a_small_box_in_a_large_one_does_not_repeat_it() -> None:
    large, small = proposals_of([(0, 0, 100, 100)], [0.9]), proposals_of([(10, 10, 30, 30)], [0.9])
    assert repeated(small, large, 0.3).tolist() == repeated(large, small, 0.3).tolist() == [False]
    assert repeated(large, large, 0.3).tolist() == [True]


def test_nothing_covers_and_nothing_is_covered() -> None:
    none, some = join([]), random_proposals(5, 0)
    assert covered(none, some, 0.5).tolist() == []
    assert covered(some, none, 0.5).tolist() == [False] * 5
    assert repeated(none, some, 0.5).tolist() == []
    assert repeated(some, none, 0.5).tolist() == [False] * 5
    assert len(suppress(none, 0.3)) == 0


def test_joining_keeps_all_in_order() -> None:
    parts = [random_proposals(count, count) for count in (3, 0, 4)]
    joined = join(parts)
    assert len(joined) == 7
    np.testing.assert_array_equal(joined.boxes[3:], parts[2].boxes)
    np.testing.assert_array_equal(joined.landmarks[:3], parts[0].landmarks)
    np.testing.assert_array_equal(joined.clear, [*parts[0].clear, *parts[2].clear])
    empty = join([])
    assert (empty.boxes.shape, empty.landmarks.shape, empty.scores.shape) == ((0, 4), (0, 5, 2), (0,))


def test_a_mask_and_an_index_take_the_same() -> None:
    proposals = random_proposals(20, 3)
    mask = proposals.scores > 0.5
    np.testing.assert_array_equal(proposals.take(mask).boxes, proposals.take(np.flatnonzero(mask)).boxes)
    np.testing.assert_array_equal(proposals.widths, [box[2] - box[0] for box in proposals.boxes])


def seen_in_view(points: NDArray[np.float32], scale: float, corner: tuple[float, float]) -> NDArray[np.float32]:
    matrix = view_matrix(scale, corner)
    seen = points.astype(np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return seen.astype(np.float32)


def view_of(proposals: Proposals, scale: float, corner: tuple[float, float]) -> Proposals:
    return Proposals(
        seen_in_view(proposals.boxes.reshape(-1, 2, 2), scale, corner).reshape(-1, 4),
        seen_in_view(proposals.landmarks, scale, corner),
        proposals.scores,
        proposals.clear,
    )


@pytest.mark.parametrize("corner", [(0.0, 0.0), (-160.0, 48.0), (1200.5, 977.25)])
@pytest.mark.parametrize("scale", [0.125, 0.5, 1.0, 2.0, 4.0])
def test_placing_undoes_the_view_exactly(scale: float, corner: tuple[float, float]) -> None:
    whole = random_proposals(20, 1)
    proposals = Proposals(whole.boxes, np.round(whole.landmarks), whole.scores, whole.clear)
    placed = view_of(proposals, scale, corner).place(scale, corner)
    np.testing.assert_array_equal(placed.boxes, proposals.boxes)
    np.testing.assert_array_equal(placed.landmarks, proposals.landmarks)
    np.testing.assert_array_equal(placed.scores, proposals.scores)
    np.testing.assert_array_equal(placed.clear, proposals.clear)


@pytest.mark.parametrize("seed", range(20))
def test_placing_undoes_any_view_up_to_rounding(seed: int) -> None:
    rng = np.random.default_rng(seed)
    proposals, scale = random_proposals(20, seed), float(10 ** rng.uniform(-1.5, 1))
    x, y = rng.uniform(-300, 6000, 2)
    placed = view_of(proposals, scale, (float(x), float(y))).place(scale, (float(x), float(y)))
    np.testing.assert_allclose(placed.boxes, proposals.boxes, atol=2e-3)
    np.testing.assert_allclose(placed.landmarks, proposals.landmarks, atol=2e-3)


def test_the_corner_of_the_photo_comes_to_the_corner_of_the_view() -> None:
    # Corners of pixels, which lie half a pixel before their centres.
    for scale in (0.3, 1.0, 7.0):
        matrix = view_matrix(scale, (12.0, 34.0))
        np.testing.assert_allclose(matrix @ [11.5, 33.5, 1], [-0.5, -0.5], atol=1e-12)
        np.testing.assert_allclose(matrix @ [12.5, 34.5, 1], [scale - 0.5, scale - 0.5], atol=1e-12)


def test_only_good_enough_scores_are_proposed_each_in_its_own_view() -> None:
    a, b = random_proposals(30, 1), random_proposals(30, 2)
    a.scores[4] = b.scores[7] = 0.5  # just good enough
    asked = []

    def network(views: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        asked.append(views.shape)
        return np.stack([a.boxes, b.boxes]), np.stack([a.scores, b.scores]), np.stack([a.landmarks, b.landmarks])

    found = propose(network, np.zeros((2, 32, 64, 3), np.uint8), 0.5)
    assert asked == [(2, 32, 64, 3)]
    for proposals, given in zip(found, (a, b), strict=True):
        good = given.scores >= np.float32(0.5)
        np.testing.assert_array_equal(proposals.boxes, given.boxes[good])
        np.testing.assert_array_equal(proposals.landmarks, given.landmarks[good])
        assert (proposals.scores == 0.5).any()
        assert not proposals.clear.any()
