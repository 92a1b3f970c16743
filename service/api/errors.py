"""One table from domain errors to HTTP, and the one shape that every error answer has."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from service import errors, metrics

log = logging.getLogger(__name__)


class MalformedRequest(errors.InvalidRequest):
    """Not even well-formed: no body, broken JSON, broken multipart."""


class TooSlow(MalformedRequest):
    """The body did not come in time; the connection is closed."""


# The first class of an error's method resolution order that stands here decides.
STATUS_AND_CODE: Mapping[type[errors.LikenessError], tuple[int, str]] = {
    MalformedRequest: (400, "invalid_request"),
    errors.Unauthorized: (401, "unauthorized"),
    errors.Forbidden: (403, "forbidden"),
    errors.GalleryNotFound: (404, "gallery_not_found"),
    errors.PersonNotFound: (404, "person_not_found"),
    errors.FaceIdNotFound: (404, "face_id_not_found"),
    errors.ModelMismatch: (409, "model_mismatch"),
    errors.Conflict: (409, "conflict"),
    errors.ImageTooLarge: (413, "image_too_large"),
    errors.UnsupportedMediaType: (415, "unsupported_media_type"),
    errors.InvalidImage: (422, "invalid_image"),
    errors.FaceNotFound: (422, "face_not_found"),
    errors.MultipleFaces: (422, "multiple_faces"),
    errors.FaceTooSmall: (422, "face_too_small"),
    errors.FaceQualityTooLow: (422, "face_quality_too_low"),
    errors.UnusableInput: (422, "invalid_request"),
    errors.InvalidRequest: (422, "invalid_request"),
    errors.RateLimited: (429, "rate_limited"),
    errors.Overloaded: (429, "overloaded"),
    errors.DeadlineExceeded: (503, "deadline_exceeded"),
    errors.InsufficientStorage: (507, "insufficient_storage"),
    errors.NotReady: (503, "not_ready"),
    errors.Unavailable: (503, "not_ready"),
}


def install(app: FastAPI) -> None:
    """Answer every expected error of ``app`` in the common shape."""
    app.add_exception_handler(errors.LikenessError, _on_domain_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_bad_parameter)


def error_response(
    request_id: str, status: int, code: str, message: str, details: Mapping[str, Any] | None = None
) -> JSONResponse:
    """``{"error": {"code", "message", "details"}, "request_id"}``."""
    body = {"error": {"code": code, "message": message, "details": dict(details or {})}, "request_id": request_id}
    return JSONResponse(body, status)


def status_and_code(error: errors.LikenessError) -> tuple[int, str]:
    """The HTTP status and the stable code of an error; 500 for one that the table has forgotten."""
    return next((STATUS_AND_CODE[kind] for kind in type(error).__mro__ if kind in STATUS_AND_CODE), (500, "internal"))


async def _on_domain_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.LikenessError)
    status, code = status_and_code(error)
    if status == 500:
        log.error("%s has no place in the table of errors: %s", type(error).__name__, error.message)
    response = error_response(request.state.request_id, status, code, error.message, error.details)
    if status in (429, 503):
        response.headers["Retry-After"] = str(error.details.get("retry_after_s", 1))
        metrics.REFUSED.labels(code).inc()
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="likeness"'
    if isinstance(error, TooSlow):
        response.headers["Connection"] = "close"
    return response


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    """Raised by the framework: no such route, method not allowed, too many multipart parts."""
    assert isinstance(error, HTTPException)
    message = f"{HTTPStatus(error.status_code).phrase}: {request.method} {request.url.path}"
    if error.detail != HTTPStatus(error.status_code).phrase:
        message = str(error.detail)
    response = error_response(request.state.request_id, error.status_code, "invalid_request", message)
    response.headers.update(error.headers or {})
    if error.status_code == 405:
        # The framework names only those of the first route with this path.
        response.headers["Allow"] = ", ".join(_methods_of(request))
    return response


def _methods_of(request: Request) -> list[str]:
    """All methods that the path of a request has."""
    found = set()
    for method in ("GET", "PUT", "POST", "PATCH", "DELETE"):
        scope = {**request.scope, "method": method}
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.router.routes):
            found.add(method)
    return sorted(found)


async def _on_bad_parameter(request: Request, error: Exception) -> JSONResponse:
    """A query parameter or header of the wrong type or range; bodies have their own reader."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place, *name = first["loc"]
    message = f"The {place} parameter {'.'.join(map(str, name))!r}: {first['msg']} (got {first.get('input')!r})."
    return error_response(request.state.request_id, 422, "invalid_request", message)
