"""What can go wrong with a call.

::

    LikenessError
    ├── NoAnswer                          nobody knows what became of the call
    │   ├── ConnectionFailed              refused, reset, or the address is wrong
    │   └── TimedOut                      no answer in time
    ├── NotTheService                     something answers there, but not Likeness
    └── ServiceError                      what the service says; one of an unknown code is just this
        ├── InvalidRequest                invalid_request: a field missing, unknown, or of the wrong type or range
        ├── Unauthorized                  unauthorized: no access key, or none that is known
        ├── Forbidden                     forbidden: the access key is not for this
        ├── NotFound
        │   ├── GalleryNotFound           gallery_not_found
        │   ├── PersonNotFound            person_not_found
        │   └── FaceIdNotFound            face_id_not_found
        ├── Conflict                      conflict: an id that is taken by something else
        ├── ModelMismatch                 model_mismatch: embeddings or a gallery of another contract
        ├── UnusablePhoto
        │   ├── InvalidImage              invalid_image: damaged, cut off or empty
        │   ├── ImageTooLarge             image_too_large
        │   ├── UnsupportedMediaType      unsupported_media_type: no JPEG, PNG, WebP or BMP
        │   ├── FaceNotFound              face_not_found
        │   ├── MultipleFaces             multiple_faces: their boxes are in ``details["boxes"]``
        │   ├── FaceTooSmall              face_too_small
        │   └── FaceQualityTooLow         face_quality_too_low: ``details["reasons"]``
        ├── Busy                          the same call may go well later; it was tried again before this is raised
        │   ├── RateLimited               rate_limited: this client or key asks for more than its part
        │   ├── Overloaded                overloaded: the queue is full
        │   ├── NotReady                  not_ready: starting or draining
        │   └── DeadlineExceeded          deadline_exceeded: the answer would come too late
        ├── InsufficientStorage           insufficient_storage: the disk is full, nothing was written
        └── InternalError                 internal: a defect; the service's log has more under ``request_id``

A photo that cannot be read from its path raises ``OSError``, an argument that no service would take ``ValueError``.
"""

from collections.abc import Mapping
from typing import Any


class LikenessError(Exception):
    """Base of all errors of a call."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class NoAnswer(LikenessError):
    """Nobody knows what became of the call."""


class ConnectionFailed(NoAnswer):
    """No connection, or it broke before the answer was complete."""


class TimedOut(NoAnswer):
    """No answer in time."""


class NotTheService(LikenessError):
    """What answers at the address is not Likeness: a proxy, a login page, another program."""


class ServiceError(LikenessError):
    """An error that the service answered with.

    Attributes:
        status: of the HTTP answer.
        code: stable, see the API's table of errors.
        details: facts for programs (boxes, limits, supported rates).
        request_id: under which the service's log knows the call.
        retry_after_s: when the service wants to be asked again; None if it does not say.
    """

    code: str = ""

    def __init__(
        self,
        message: str,
        status: int,
        code: str,
        details: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code = status, code
        self.details = dict(details or {})
        self.request_id, self.retry_after_s = request_id, retry_after_s

    def __str__(self) -> str:
        return f"{self.message} ({self.code}, request {self.request_id})"


class InvalidRequest(ServiceError):
    code = "invalid_request"


class Unauthorized(ServiceError):
    code = "unauthorized"


class Forbidden(ServiceError):
    code = "forbidden"


class NotFound(ServiceError):
    """What was asked for is not there."""


class GalleryNotFound(NotFound):
    code = "gallery_not_found"


class PersonNotFound(NotFound):
    code = "person_not_found"


class FaceIdNotFound(NotFound):
    code = "face_id_not_found"


class Conflict(ServiceError):
    code = "conflict"


class ModelMismatch(ServiceError):
    code = "model_mismatch"


class UnusablePhoto(ServiceError):
    """The photo, or the face in it, cannot be used; another photo might."""


class InvalidImage(UnusablePhoto):
    code = "invalid_image"


class ImageTooLarge(UnusablePhoto):
    code = "image_too_large"


class UnsupportedMediaType(UnusablePhoto):
    code = "unsupported_media_type"


class FaceNotFound(UnusablePhoto):
    code = "face_not_found"


class MultipleFaces(UnusablePhoto):
    code = "multiple_faces"


class FaceTooSmall(UnusablePhoto):
    code = "face_too_small"


class FaceQualityTooLow(UnusablePhoto):
    code = "face_quality_too_low"


class Busy(ServiceError):
    """Not now; the same call may go well later."""


class RateLimited(Busy):
    code = "rate_limited"


class Overloaded(Busy):
    code = "overloaded"


class NotReady(Busy):
    code = "not_ready"


class DeadlineExceeded(Busy):
    code = "deadline_exceeded"


class InsufficientStorage(ServiceError):
    code = "insufficient_storage"


class InternalError(ServiceError):
    code = "internal"


def _with_codes(kind: type[ServiceError]) -> dict[str, type[ServiceError]]:
    found = {kind.code: kind} if kind.code else {}
    for child in kind.__subclasses__():
        found |= _with_codes(child)
    return found


ERROR_OF_CODE: Mapping[str, type[ServiceError]] = _with_codes(ServiceError)
