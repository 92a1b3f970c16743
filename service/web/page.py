"""Serves the page and its files. They hold no secret, so no access key is asked for; what they call asks for it."""

from os import PathLike, stat_result
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC = Path(__file__).parent / "static"
HEADERS = {
    # Kept by the browser, but asked for each time (304 by its ETag), so that an update is seen at once.
    "cache-control": "no-cache",
    # Everything from here, nothing written into the document; photos are shown as blob: addresses of the page's own.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}


class _Files(StaticFiles):
    """Static files, or 304 for them, with the page's headers instead of those of the API's answers."""

    def file_response(
        self, full_path: "PathLike[str] | str", stat_result: stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(HEADERS)
        return response


def install(app: Starlette) -> None:
    """Add ``/`` and ``/page/…`` to ``app``, outside of its OpenAPI document."""
    files = _Files(directory=STATIC)

    async def index(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    app.add_route("/", index, methods=["GET"], include_in_schema=False)
    app.mount("/page", files, name="page")
