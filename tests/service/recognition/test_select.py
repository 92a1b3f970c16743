"""Which faces a request is about: every policy, on faces made up and on faces found."""

import json

import numpy as np
import pytest

from service.errors import FaceNotFound, FaceTooSmall, MultipleFaces
from service.recognition.select import FacePolicy, box_details, select_faces
from service.recognition.types import Face

SMALLEST = 16.0


def face(width: float, height: float | None = None, x: float = 0.0, y: float = 0.0) -> Face:
    box = np.array([x, y, x + width, y + (width if height is None else height)], np.float32)
    return Face(box, np.zeros((5, 2), np.float32), 0.9)


LARGE, MIDDLE, TINY = face(200), face(50, x=300), face(10, x=400)


def test_single_gives_the_only_face() -> None:
    assert select_faces([LARGE], "single", SMALLEST) == [LARGE]


def test_single_does_not_choose_between_people() -> None:
    with pytest.raises(MultipleFaces, match=r"image_b shows 2 faces; .*faces=largest") as caught:
        select_faces([LARGE, MIDDLE], "single", SMALLEST, "image_b")
    assert caught.value.details == {"image": "image_b", "boxes": [box_details(LARGE), box_details(MIDDLE)]}
    json.dumps(caught.value.details)


def test_single_refuses_the_group_photo_with_its_six_boxes(group_faces: list[Face]) -> None:
    with pytest.raises(MultipleFaces, match="image shows 6 faces") as caught:
        select_faces(group_faces, "single", SMALLEST)
    boxes = caught.value.details["boxes"]
    assert boxes == [box_details(one) for one in group_faces]
    assert all(set(box) == {"x", "y", "width", "height"} for box in boxes)
    json.dumps(boxes)


def test_faces_too_small_to_compare_do_not_make_a_photo_ambiguous() -> None:
    assert select_faces([LARGE, TINY], "single", SMALLEST) == [LARGE]


def test_largest_gives_the_first() -> None:
    assert select_faces([LARGE, MIDDLE, TINY], "largest", SMALLEST) == [LARGE]


def test_largest_passes_over_a_face_that_is_long_but_thin() -> None:
    assert select_faces([face(15, 400), MIDDLE], "largest", SMALLEST) == [MIDDLE]


def test_largest_of_the_group_photo_has_the_largest_box(group_faces: list[Face]) -> None:
    [chosen] = select_faces(group_faces, "largest", SMALLEST)
    assert chosen.area == max(one.area for one in group_faces)


def test_all_gives_every_usable_face_in_order() -> None:
    assert select_faces([LARGE, MIDDLE, TINY], "all", SMALLEST) == [LARGE, MIDDLE]


def test_all_may_be_none() -> None:
    assert select_faces([], "all", SMALLEST) == []
    assert select_faces([TINY], "all", SMALLEST) == []


@pytest.mark.parametrize("policy", ["single", "largest"])
def test_no_face_is_an_error_where_one_is_needed(policy: FacePolicy) -> None:
    with pytest.raises(FaceNotFound, match="No face was found in image_a") as caught:
        select_faces([], policy, SMALLEST, "image_a")
    assert caught.value.details == {"image": "image_a"}


@pytest.mark.parametrize("policy", ["single", "largest"])
def test_only_small_faces_are_an_error_that_names_the_largest(policy: FacePolicy) -> None:
    with pytest.raises(FaceTooSmall, match=r"photo is 12\.3 pixels wide; 16 are needed") as caught:
        select_faces([face(12.345, 90), TINY], policy, SMALLEST, "photo")
    details = caught.value.details
    assert details == {"image": "photo", "face_size": pytest.approx(12.35, abs=0.01), "min_face_size": 16.0}
    json.dumps(details)


@pytest.mark.parametrize("policy", ["single", "largest", "all"])
def test_a_face_of_just_the_least_size_is_usable(policy: FacePolicy) -> None:
    assert len(select_faces([face(16, 40)], policy, SMALLEST)) == 1
    assert len(select_faces([face(40, 16)], policy, SMALLEST)) == 1


def test_without_a_least_size_every_face_is_usable() -> None:
    assert select_faces([TINY], "single", 0) == [TINY]


def test_box_details_are_to_a_hundredth_and_plain_numbers() -> None:
    details = box_details(face(33.3333, 44.4444, x=-5.5555, y=1.1111))
    assert details == {"x": -5.56, "y": 1.11, "width": 33.33, "height": 44.44}
    assert all(type(value) is float for value in details.values())
    json.dumps(details)


def test_the_measures_of_a_face() -> None:
    landmarks = np.array([[10, 20], [13, 24], [0, 0], [0, 0], [0, 0]], np.float32)
    one = Face(np.array([1, 2, 31, 52], np.float32), landmarks, 0.9)
    assert one.area == 30 * 50
    assert one.size == 30
    assert one.inter_eye_distance == 5
