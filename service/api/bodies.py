"""Request bodies: one pydantic model a call, sent as multipart or as JSON, and read with one set of limits.

In multipart, photos are file parts and everything else is text; in JSON a photo is ``{"base64": "..."}``. Both give
the same model. Bodies stay in memory: a photo of a face is never written to a temporary file.
"""

import base64
import binascii
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, ClassVar, TypeVar

import pydantic_core
from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, WithJsonSchema
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.api.errors import MalformedRequest
from service.api.intake import Intake
from service.errors import InvalidRequest, UnsupportedMediaType
from service.runtime.workers import Workers

# 32 photos with an id each are the most that a call takes; a hundred parts are a mistake or an attack.
MAX_FILES, MAX_FIELDS = 32, 40
MAX_TEXT_PART = 4096

Body = TypeVar("Body", bound="RequestBody")


class RequestBody(BaseModel):
    """Base of all request bodies: unknown fields are refused, numbers are finite.

    In multipart, the fields named in ``repeated`` may come several times and make a list. ``photos`` is how many
    files a multipart body has at least: without places for so many it is not even read.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    repeated: ClassVar[frozenset[str]] = frozenset()
    # Of which a form is not told: vectors are no text.
    json_only: ClassVar[frozenset[str]] = frozenset()
    photos: ClassVar[int] = 0


def _photo_bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, dict) or set(value) != {"base64"} or not isinstance(value["base64"], str):
        raise ValueError('a photo is a file part, or {"base64": "..."} in JSON')
    try:
        return base64.b64decode(value["base64"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"not base64: {error}") from error


_PHOTO_SCHEMA = {
    "type": "object",
    "properties": {"base64": {"type": "string", "contentEncoding": "base64"}},
    "required": ["base64"],
    "additionalProperties": False,
}

Photo = Annotated[bytes, BeforeValidator(_photo_bytes), WithJsonSchema(_PHOTO_SCHEMA)]


def reader(model: type[Body], multipart: bool = True, required: bool = True) -> Callable[[Request], Awaitable[Body]]:
    """A FastAPI dependency that reads and validates a ``model``.

    Args:
        multipart: false where only JSON is taken.
        required: false where no body at all means an empty one.
    """

    async def read(request: Request) -> Body:
        intake: Intake = request.app.state.intake
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if kind == "application/json":
            return _validate(model, _parse_json(b"".join([c async for c in intake.chunks(request)])), strict=True)
        if kind == "multipart/form-data" and multipart:
            if model.photos:
                workers: Workers = request.app.state.workers
                workers.refuse_if_full(model.photos)
            return _validate(model, await _parse_multipart(request, intake, model.repeated), strict=False)
        accepted = ["application/json", "multipart/form-data"] if multipart else ["application/json"]
        if not kind and request.headers.get("content-length", "0") == "0":
            if not required:
                return _validate(model, {}, strict=True)
            raise MalformedRequest(f"The request has no body; send {' or '.join(accepted)}.")
        raise UnsupportedMediaType(f"Content type {kind!r} is not {' or '.join(accepted)}.", {"accepted": accepted})

    return read


def openapi_body(model: type[RequestBody], multipart: bool = True, required: bool = True) -> dict[str, Any]:
    """The ``requestBody`` of the OpenAPI document for both encodings of ``model``."""
    schema = _inlined(model.model_json_schema())
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if multipart:
        binary = {"type": "string", "format": "binary"}
        shown = {name: part for name, part in schema["properties"].items() if name not in model.json_only}
        form = {**schema, "properties": _replace_photos(shown, binary)}
        content = {"multipart/form-data": {"schema": form}, **content}
    return {"requestBody": {"required": required, "content": content}}


def _inlined(schema: dict[str, Any]) -> Any:
    """The schema without ``$defs``, which its references could not reach inside an OpenAPI document."""
    definitions = schema.pop("$defs", {})

    def inline(part: Any) -> Any:
        if isinstance(part, list):
            return [inline(item) for item in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return inline(definitions[part["$ref"].removeprefix("#/$defs/")])
        return {name: inline(item) for name, item in part.items()}

    return inline(schema)


def _replace_photos(schema: Any, by: dict[str, str]) -> Any:
    """The schema with every photo, however deep, replaced."""
    if isinstance(schema, list):
        return [_replace_photos(part, by) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("properties") == _PHOTO_SCHEMA["properties"]:
        return by
    return {name: _replace_photos(part, by) for name, part in schema.items()}


def _parse_json(body: bytes) -> dict[str, Any]:
    try:
        value = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise MalformedRequest(f"The body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise MalformedRequest(f"The body is a JSON {type(value).__name__}; an object is needed.")
    return value


async def _parse_multipart(request: Request, intake: Intake, repeated: frozenset[str]) -> dict[str, Any]:
    parser = MultiPartParser(
        request.headers,
        intake.chunks(request),
        max_files=MAX_FILES,
        max_fields=MAX_FIELDS,
        max_part_size=MAX_TEXT_PART,
    )
    parser.spool_max_size = intake.max_body_bytes + 1
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise MalformedRequest(f"The multipart body cannot be read: {error.message}") from error
    except KeyError as error:  # no boundary in the content type
        raise MalformedRequest(f"The content type lacks {error}.") from error
    try:
        fields: dict[str, Any] = {}
        for name, value in form.multi_items():
            content = await value.read() if isinstance(value, UploadFile) else value
            if name in repeated:
                fields.setdefault(name, []).append(content)
            elif name in fields:
                raise InvalidRequest(f"Field {name!r} was sent more than once.", {"field": name})
            else:
                fields[name] = content
        return fields
    finally:
        await form.close()


def _validate(model: type[Body], fields: dict[str, Any], strict: bool) -> Body:
    """In JSON a value has its type ("1" is no number, "false" no boolean); in multipart all values are text."""
    try:
        return model.model_validate(fields, strict=strict)
    except ValidationError as error:
        problems = [
            {
                "field": ".".join(str(part) for part in found["loc"]),
                "problem": found["msg"].removeprefix("Value error, "),
            }
            for found in error.errors(include_input=False, include_url=False, include_context=False)
        ]
        first = problems[0]
        where = f"{first['field']}: " if first["field"] else ""
        raise InvalidRequest(f"{where}{first['problem']}", {"fields": problems[:20]}) from error


def parse_filter(text: str | None) -> dict[str, Any] | None:
    """The ``filter`` of a query string: a JSON object of metadata.

    Raises:
        InvalidRequest: it isn't one.
    """
    if text is None:
        return None
    try:
        value = pydantic_core.from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"filter is not JSON: {error}", {"field": "filter"}) from error
    if not isinstance(value, dict):
        raise InvalidRequest(f"filter is a JSON {type(value).__name__}; an object is needed.", {"field": "filter"})
    return value
