"""Which faces of a photo a request is about. Nobody is chosen silently."""

from collections.abc import Sequence
from typing import Literal

from service.errors import FaceNotFound, FaceTooSmall, MultipleFaces
from service.recognition.types import Face

FacePolicy = Literal["single", "largest", "all"]
OneFacePolicy = Literal["single", "largest"]


def select_faces(faces: Sequence[Face], policy: FacePolicy, min_face_size: float, what: str = "image") -> list[Face]:
    """Apply a policy to detected faces, largest first.

    Args:
        faces: as detected.
        policy: ``single`` refuses to choose between people, ``largest`` takes the largest box, ``all`` every face.
        min_face_size: faces whose box has a shorter side than this, in pixels, are not usable: too little is left
            to compare.
        what: the request's name of the photo, for the message.

    Returns:
        One face for ``single`` and ``largest``; any number, also none, for ``all``.

    Raises:
        FaceNotFound: no face, where one is needed.
        FaceTooSmall: only faces that are not usable, where one is needed.
        MultipleFaces: several usable faces under ``single``.
    """
    usable = [face for face in faces if face.size >= min_face_size]
    if policy == "all":
        return usable
    if not faces:
        raise FaceNotFound(f"No face was found in {what}.", {"image": what})
    if not usable:
        largest = max(face.size for face in faces)
        raise FaceTooSmall(
            f"The largest face in {what} is {largest:.1f} pixels wide; {min_face_size:g} are needed. "
            "Send a larger photo.",
            {
                "image": what,
                "face_size": round(largest, 2),
                "min_face_size": min_face_size,
            },
        )
    if policy == "single" and len(usable) > 1:
        raise MultipleFaces(
            f"{what} shows {len(usable)} faces; send a photo of one person, or choose faces=largest.",
            {"image": what, "boxes": [box_details(face) for face in usable]},
        )
    return usable[:1]


def box_details(face: Face) -> dict[str, float]:
    """A face's box as it stands in answers: x, y, width, height in pixels, to a hundredth."""
    x1, y1, x2, y2 = (float(v) for v in face.box)
    return {"x": round(x1, 2), "y": round(y1, 2), "width": round(x2 - x1, 2), "height": round(y2 - y1, 2)}
