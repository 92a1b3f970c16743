"""Simple, defined measures of how well a face can be compared. Each is a number with a unit, never a verdict."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from service.recognition.types import Face


@dataclass(frozen=True)
class Quality:
    """Measures of one detected face.

    Attributes:
        inter_eye_distance: between the eye centres, in pixels of the photo (passports: at least 90, ISO/IEC 19794-5;
            the aligned crop has 35).
        roll_degrees: tilt of the line between the eyes, positive when the viewer's right eye is lower; the
            alignment takes it out.
        brightness: mean luma of the aligned crop, 0 (black) to 1 (white).
        sharpness: standard deviation of the Laplacian of the aligned crop's luma, in grey levels; low when blurred
            or enlarged from few pixels.
    """

    inter_eye_distance: float
    roll_degrees: float
    brightness: float
    sharpness: float

    def details(self) -> dict[str, float]:
        """The measures by name as they stand in answers, to four digits."""
        return {name: round(value, 4) for name, value in vars(self).items()}


def measure(face: Face, crop: NDArray[np.uint8]) -> Quality:
    """Measure one face on its aligned crop, uint8 (112, 112, 3) RGB."""
    luma = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    dx, dy = face.landmarks[1] - face.landmarks[0]
    return Quality(
        inter_eye_distance=face.inter_eye_distance,
        roll_degrees=float(np.degrees(np.arctan2(dy, dx))),
        brightness=float(luma.mean() / 255),
        sharpness=float(cv2.Laplacian(luma, cv2.CV_32F).std()),
    )
