"""Simple, defined measures of how well a face can be compared. Each is a number with a unit, never a verdict."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from service.recognition.pose import yaw_and_pitch
from service.recognition.types import Face

# Grey levels up to the first are black, from the second on white: nothing can be seen in them.
BLACK, WHITE = 10, 245


@dataclass(frozen=True)
class Quality:
    """Measures of one detected face.

    Attributes:
        inter_eye_distance: between the eye centres, in pixels of the photo (passports: at least 90, ISO/IEC 19794-5;
            the aligned crop has 35).
        roll_degrees: tilt of the line between the eyes, positive when the viewer's right eye is lower; the
            alignment takes it out.
        yaw_degrees, pitch_degrees: away from a frontal view, see ``pose``: to the viewer's right, and down.
        brightness: mean luma of the aligned crop, 0 (black) to 1 (white).
        contrast: standard deviation of that luma, 0 to 0.5.
        clipped: share of the crop's pixels that are black or white.
        sharpness: standard deviation of the Laplacian of the aligned crop's luma, in grey levels; low when blurred
            or enlarged from few pixels.
        detection_score: 0 to 1, how sure the detector is.
        feature_norm: length of the embedding before normalisation, in a unit of the bundle's own; short for images
            that the network makes little of. None where nothing was embedded.
    """

    inter_eye_distance: float
    roll_degrees: float
    yaw_degrees: float
    pitch_degrees: float
    brightness: float
    contrast: float
    clipped: float
    sharpness: float
    detection_score: float
    feature_norm: float | None = None

    def details(self) -> dict[str, float]:
        """The measures by name as they stand in answers, to four digits; without those there are not."""
        return {name: round(value, 4) for name, value in vars(self).items() if value is not None}


def measure(face: Face, crop: NDArray[np.uint8], feature_norm: float | None = None) -> Quality:
    """Measure one face on its aligned crop, uint8 (112, 112, 3) RGB."""
    luma = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    dx, dy = face.landmarks[1] - face.landmarks[0]
    yaw, pitch = yaw_and_pitch(face.landmarks)
    return Quality(
        inter_eye_distance=face.inter_eye_distance,
        roll_degrees=float(np.degrees(np.arctan2(dy, dx))),
        yaw_degrees=yaw,
        pitch_degrees=pitch,
        brightness=float(luma.mean() / 255),
        contrast=float(luma.std() / 255),
        clipped=float(((luma <= BLACK) | (luma >= WHITE)).mean()),
        sharpness=float(cv2.Laplacian(luma, cv2.CV_32F).std()),
        detection_score=face.score,
        feature_norm=feature_norm,
    )
