"""What can go wrong, as domain errors. They say what happened; ``service.api.errors`` maps them to HTTP.

::

    LikenessError
    ├── UnusableInput                 the caller's photo or field; the CLI exits with 3
    │   ├── InvalidImage              not decodable, or cut off
    │   │   ├── ImageTooLarge         more pixels or bytes than allowed
    │   │   └── UnsupportedMediaType  none of JPEG, PNG, WebP, BMP
    │   ├── FaceNotFound
    │   ├── MultipleFaces
    │   ├── FaceTooSmall
    │   ├── FaceQualityTooLow         below the limits of the quality policy
    │   ├── ModelMismatch             embeddings of two different contracts
    │   ├── Missing
    │   │   ├── GalleryNotFound
    │   │   ├── PersonNotFound
    │   │   └── FaceIdNotFound
    │   ├── Unauthorized              no access key, or none that is known
    │   ├── Forbidden                 the access key is not for this
    │   ├── Conflict                  an id or an idempotency key that is taken by something else
    │   ├── InvalidRequest            a field that is missing, unknown, or of the wrong type or range
    │   └── UnsupportedErrorRate      an FMR that the calibration data cannot speak about
    └── Unavailable                   nothing the caller can mend by sending something else; exits with 4
        ├── BundleError               missing, damaged, or not what its card says
        ├── DownloadError             no mirror gave the file with the right digest
        ├── DeviceError               the device asked for is not the one that would run
        ├── Overloaded
        │   └── RateLimited           one caller takes more than their part
        ├── DeadlineExceeded
        ├── CallerLeft                nobody reads the answer; never sent
        ├── InsufficientStorage       the disk is full; nothing was written
        └── NotReady
"""

from collections.abc import Mapping
from typing import Any


class LikenessError(Exception):
    """Base of all expected errors.

    Args:
        message: one sentence: what was wrong, with the value, and what to do.
        details: JSON-serialisable facts for programs (boxes, limits, supported values).
    """

    def __init__(self, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details = dict(details or {})


class UnusableInput(LikenessError):
    """The photo or the field that was sent cannot be used."""


class InvalidImage(UnusableInput):
    """The bytes are not a whole, decodable image."""


class ImageTooLarge(InvalidImage):
    """More pixels or bytes than the service accepts; known from the header, before decoding."""


class UnsupportedMediaType(InvalidImage):
    """The bytes are an image of a kind that is not accepted, or no image at all."""


class FaceNotFound(UnusableInput):
    """No face was detected."""


class MultipleFaces(UnusableInput):
    """Several usable faces where exactly one was asked for; their boxes are in ``details``."""


class FaceTooSmall(UnusableInput):
    """The face has too few pixels to be compared."""


class FaceQualityTooLow(UnusableInput):
    """The face is below the limits of the quality policy; the reasons are in ``details``."""


class ModelMismatch(UnusableInput):
    """Embeddings made under different contracts cannot be compared."""


class Missing(UnusableInput):
    """There is nothing under the id that was named."""


class GalleryNotFound(Missing):
    """There is no such gallery."""


class PersonNotFound(Missing):
    """There is no such person in the gallery."""


class FaceIdNotFound(Missing):
    """There is no such enrolled face."""


class Unauthorized(UnusableInput):
    """There is no access key with the request, or it is not known, or has expired."""


class Forbidden(UnusableInput):
    """The access key is known, but not for this call or this gallery."""


class Conflict(UnusableInput):
    """An id or an idempotency key is taken by something else."""


class InvalidRequest(UnusableInput):
    """A field is missing, unknown, or has the wrong type or range."""


class UnsupportedErrorRate(InvalidRequest):
    """The calibration data cannot support the error rate that was asked for."""


class Unavailable(LikenessError):
    """The service, a bundle or a device is not there to answer."""


class BundleError(Unavailable):
    """A bundle is missing, damaged, or not what its card says."""


class DownloadError(Unavailable):
    """No mirror gave the file with the expected digest."""


class DeviceError(Unavailable):
    """The execution device asked for is not the one that would run."""


class Overloaded(Unavailable):
    """All places in the queue are taken; try again after ``details["retry_after_s"]``."""


class RateLimited(Overloaded):
    """One caller has as many requests in the service as they may have."""


class DeadlineExceeded(Unavailable):
    """The answer would come later than the caller waits."""


class CallerLeft(Unavailable):
    """The connection is gone: the work is dropped and nothing is answered."""


class InsufficientStorage(Unavailable):
    """The disk is full; nothing was written."""


class NotReady(Unavailable):
    """Starting up or draining."""
