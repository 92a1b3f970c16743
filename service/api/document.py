"""What the OpenAPI document says beyond the routes: ids, and the access key that each call needs."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from service.gallery.store_values import ID_PATTERN
from service.security.scopes import NEEDED, PUBLIC

_IDS = ("gallery", "person", "face_id")
_ID_SCHEMA = {"type": "string", "pattern": f"^{ID_PATTERN}$", "minLength": 1, "maxLength": 128}


def describe(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """What makes the document of ``app``."""
    make = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = make()
            schema["components"]["securitySchemes"] = {
                "access_key": {"type": "http", "scheme": "bearer", "description": "made with `likeness keys create`"}
            }
            for methods in schema["paths"].values():
                for operation in methods.values():
                    _describe(operation)
        return app.openapi_schema or {}

    return document


def name_operation(route: APIRoute) -> str:
    """The call's own name: it is unique, and scopes and the audit log use it."""
    return route.name


def _describe(operation: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "path" and parameter["name"] in _IDS:
            parameter["schema"] = _ID_SCHEMA
    call = operation["operationId"]
    if call in PUBLIC:
        operation["security"] = []
        return
    for status in ("401", "403", "429"):
        operation["responses"].setdefault(status, {"description": HTTPStatus(int(status)).phrase})
    operation["security"] = [{"access_key": []}]
    operation["x-scopes"] = sorted(NEEDED.get(call, ()))
