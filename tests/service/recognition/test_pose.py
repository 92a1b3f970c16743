"""Yaw and pitch of landmarks projected from a turned model."""

import numpy as np
import pytest

from service.recognition.pose import MODEL, yaw_and_pitch


def landmarks(yaw: float, pitch: float, roll: float = 0.0, scale: float = 40.0) -> np.ndarray:
    """The model turned to the viewer's right, then down, then clockwise, seen from far away."""
    y, p, r = np.radians([yaw, pitch, roll])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return scale * (MODEL @ (about_z @ about_x @ about_y).T)[:, :2] + (300, 200)


@pytest.mark.parametrize("angle", [-60, -30, 0, 15, 45])
@pytest.mark.parametrize("roll", [0, 25, -40])
def test_one_turn_is_read_exactly_whatever_the_roll_and_the_size(angle: float, roll: float) -> None:
    assert yaw_and_pitch(landmarks(angle, 0, roll, 17.0)) == pytest.approx((angle, 0), abs=1e-6)
    assert yaw_and_pitch(landmarks(0, angle, roll, 90.0)) == pytest.approx((0, angle), abs=1e-6)


def test_two_turns_together_are_read_nearly() -> None:
    assert yaw_and_pitch(landmarks(30, 10, 20)) == pytest.approx((30, 10), abs=2)


def test_the_signs_are_the_viewers() -> None:
    assert landmarks(30, 0)[2, 0] > 300  # the nose moves to the viewer's right
    assert landmarks(0, 30)[2, 1] > landmarks(0, 0)[2, 1]  # and down


def test_points_that_are_no_face_give_an_answer() -> None:
    assert yaw_and_pitch(np.zeros((5, 2))) == (0, 0)
