"""The client against the service's OpenAPI document: no call, no argument and no field of an answer is forgotten."""

import dataclasses
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import httpx
import pytest

from likeness import Client, errors
from likeness.api import Api
from likeness.operations import Call, Operation, Page, PagedOperation
from service.api.errors import STATUS_AND_CODE
from tests.conftest import ROOT, Running

METHODS: dict[str, Operation[Any, Any] | PagedOperation[Any, Any]] = {
    name: value for name, value in vars(Api).items() if isinstance(value, Operation | PagedOperation) and value.name
}
# The client takes care of these itself: pages, and embeddings as base64, which are the same to the last bit.
OWN = {"cursor", "encoding"}
# Arguments that have a name of their own.
CALLED = {"Idempotency-Key": "idempotency_key", "idempotency-key": "idempotency_key"}
SAMPLES = {
    "images": [b"photo"],
    "embeddings": [[1.0]],
    "persons": [],
    "a": [1.0],
    "b": [1.0],
    "embedding": [1.0],
    "image": b"photo",
    "image_a": b"photo",
    "image_b": b"photo",
}


@pytest.fixture(scope="module")
def document(running: Running) -> Any:
    return httpx.get(f"{running.url}/openapi.json").json()


def operations(document: Any) -> dict[str, tuple[str, str, Any]]:
    """Method, path and the rest of each."""
    return {
        operation["operationId"]: (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_every_operation_has_a_method(document: Any) -> None:
    assert {method.name for method in METHODS.values()} == set(operations(document))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_calls_its_operation(name: str, document: Any) -> None:
    method = METHODS[name]
    parameters = inspect.signature(method.describe).parameters
    given = {
        argument: SAMPLES.get(argument, argument)
        for argument, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty
    }
    call: Call[Any] = method.describe(**given)
    verb, path, _ = operations(document)[method.name or ""]
    assert (call.method, call.path) == (verb, re.sub(r"{(\w+)}", r"\1", path))
    assert call.repeatable


def test_every_parameter_and_field_is_an_argument(document: Any) -> None:
    for operation, (_, _, told) in operations(document).items():
        arguments: set[str] = set()
        for method in METHODS.values():
            if method.name == operation:
                arguments |= set(inspect.signature(method.describe).parameters)
        wanted = {CALLED.get(parameter["name"], parameter["name"]) for parameter in told.get("parameters", [])}
        for content in told.get("requestBody", {}).get("content", {}).values():
            wanted |= set(content["schema"]["properties"])
        assert wanted - OWN <= arguments, operation


def test_every_field_of_an_answer_is_a_field_of_its_result(document: Any) -> None:
    for method in METHODS.values():
        _, _, told = operations(document)[method.name or ""]
        (result,) = get_args(get_type_hints(method.describe)["return"])
        if result is str:
            continue
        ok = next(told["responses"][code] for code in ("201", "200") if code in told["responses"])
        schema = ok["content"]["application/json"]["schema"]
        if get_origin(result) is Page:
            # The page's list is the items of the result.
            (result,) = get_args(result)
            page = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            schema = next(part for part in page["properties"].values() if part.get("type") == "array")["items"]
        assert list(missing(result, schema, document, result.__name__)) == []


def missing(kind: Any, schema: Any, document: Any, where: str) -> Iterator[str]:
    """The fields that are in the schema and not in the dataclass, with those of what they hold."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    branches = [part for part in schema.get("anyOf", []) if part.get("type") != "null"]
    if get_origin(kind) in (Union, UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    if branches:
        schema = branches[0]
        yield from missing(kind, schema, document, where)
    elif dataclasses.is_dataclass(kind):
        # A deletion's ``erased`` says what the caller asked for.
        assert isinstance(kind, type)
        hints = get_type_hints(kind)
        for name, inner in schema.get("properties", {}).items():
            if name in hints:
                yield from missing(hints[name], inner, document, f"{where}.{name}")
            elif f"{where}.{name}" != "Erasure.erased":
                yield f"{where}.{name}"
    elif schema.get("type") == "array" and "items" in schema:
        yield from missing(get_args(kind)[0], schema["items"], document, where)


def test_every_code_has_a_class() -> None:
    codes = {code for _, code in STATUS_AND_CODE.values()} | {"internal"}
    assert codes == set(errors.ERROR_OF_CODE)
    drawn = re.findall(r"─ (\w+)", errors.__doc__ or "")
    kinds = [kind.__name__ for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, Exception)]
    assert sorted([*drawn, "LikenessError"]) == sorted(kinds)


def test_it_needs_nothing_but_httpx() -> None:
    loaded = "import sys, likeness; print(*{name.partition('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = set(run.stdout.split())
    assert "httpx" in modules
    assert modules.isdisjoint({"service", "numpy", "cv2", "fastapi", "pydantic", "onnxruntime", "faiss", "requests"})


def test_methods_explain_themselves() -> None:
    with Client() as client:
        for name, method in METHODS.items():
            assert getattr(client, name).__doc__ == method.__doc__
            assert method.__doc__
            assert inspect.signature(getattr(client, name)) == inspect.signature(method.describe)
