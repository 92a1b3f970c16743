"""Which way a head is turned, from the five landmarks."""

import numpy as np
from numpy.typing import NDArray

# An average face in units of the distance between its eye centres, from the middle of these: x to the viewer's right,
# y down, z towards the viewer. x and y are those of the usual 112 × 112 alignment template; the depths are round
# figures of anthropometry: the nose tip stands out by 0.45, the corners of the mouth lie about as deep as the eyes.
MODEL = np.array(
    [[-0.5, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, 0.57, 0.45], [-0.41, 1.15, 0.08], [0.41, 1.15, 0.08]], np.float64
)
_CENTRED = MODEL - MODEL.mean(axis=0)
# Of least squares: from five points to two scaled axes of the camera.
_FIT = np.linalg.pinv(_CENTRED)


def yaw_and_pitch(landmarks: NDArray[np.floating]) -> tuple[float, float]:
    """Degrees from a frontal view: yaw positive when the face looks to the viewer's right, pitch when it looks down.

    The camera is taken to be far away, so that the landmarks are an affine image of the model: the scaled orthographic
    pose of DeMenthon, Davis, "Model-based object pose in 25 lines of code", IJCV 15, 1995. Five points and one face for
    everybody: within some 10°, which tells a profile from a frontal view, and not more.

    Args:
        landmarks: (5, 2) as in ``Face``.
    """
    points = landmarks.astype(np.float64)
    rows = (_FIT @ (points - points.mean(axis=0))).T  # (2, 3)
    lengths = np.linalg.norm(rows, axis=1)
    if not (lengths > 0).all():
        return 0.0, 0.0
    # Roll does not matter: only how far each axis of the face points out of the image does.
    across, down = np.linalg.norm(rows[:, 0]), np.linalg.norm(rows[:, 1])
    scale = float(np.sqrt(lengths.prod()))
    along_x, along_y = rows[:, 0] / max(across, 1e-9), rows[:, 1] / max(down, 1e-9)
    forward = rows[:, 2] / scale
    yaw, pitch = float(forward @ along_x), float(forward @ along_y)
    return float(np.degrees(np.arcsin(np.clip(yaw, -1, 1)))), float(np.degrees(np.arcsin(np.clip(pitch, -1, 1))))
