"""The OpenAPI document as a page: ``curl -s http://127.0.0.1:8000/openapi.json | python -m service.api.reference``.

What it prints is docs/reference.md; a test compares the two.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

HEAD = """# Reference

Every call, field and answer, made from the service's OpenAPI document; [api.md](api.md) explains them.

<!-- Made by a program: curl -s http://127.0.0.1:8000/openapi.json | python -m service.api.reference -->
"""

Schema = Mapping[str, Any]


def reference(document: Schema) -> str:
    """The page of a document, in Markdown."""
    lines = [HEAD]
    by_tag: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            tag = operation.get("tags", ["other"])[0]
            by_tag.setdefault(tag, []).extend(_operation(method.upper(), path, operation))
    for tag, calls in by_tag.items():
        lines += [f"## Calls: {tag}", "", *calls]
    lines += ["## Objects", ""]
    for name, schema in sorted(document["components"]["schemas"].items()):
        if "properties" in schema and name not in ("HTTPValidationError", "ValidationError"):
            lines += [f"### {name}", "", *_described(schema), *_table(_fields(schema)), ""]
    return "\n".join(lines).rstrip() + "\n"


def _operation(method: str, path: str, operation: Schema) -> Iterator[str]:
    yield from [f"### `{method} {path}`", ""]
    yield from _described(operation)
    scopes = " or ".join(f"`{scope}`" for scope in operation.get("x-scopes", []))
    yield from [f"Access key with {scopes}." if scopes else "No access key is needed.", ""]
    rows = [
        (parameter["name"], parameter["in"], parameter["schema"], parameter.get("required", False))
        for parameter in operation.get("parameters", [])
    ]
    if table := _table([*(_row(*row) for row in rows), *_body(operation)]):
        yield from [*table, ""]
    yield from [f"Answer: {_answers(operation)}.", ""]


def _body(operation: Schema) -> Iterator[tuple[str, str, str, str]]:
    """The fields of the body, those of a form first."""
    seen: set[str] = set()
    content = operation.get("requestBody", {}).get("content", {})
    for kind, part in content.items():
        where = "JSON" if kind == "application/json" else "form"
        for name, schema in part["schema"]["properties"].items():
            if name not in seen:
                seen.add(name)
                both = where == "form" and "application/json" in content
                yield _row(name, "form or JSON" if both else where, schema, name in part["schema"].get("required", []))


def _answers(operation: Schema) -> str:
    told = []
    for status, response in operation["responses"].items():
        if status.startswith("2"):
            schema = response.get("content", {}).get("application/json", {}).get("schema", {})
            told.append(f"{status} {_type(schema)}" if schema else status)
    return ", ".join(told)


def _fields(schema: Schema) -> list[tuple[str, str, str, str]]:
    required = schema.get("required", [])
    return [_row(name, "", part, name in required) for name, part in schema["properties"].items()]


def _row(name: str, where: str, schema: Schema, required: bool) -> tuple[str, str, str, str]:
    default = schema.get("default")
    told = [schema["description"]] if "description" in schema else []
    told += [part["description"] for part in schema.get("anyOf", []) if "description" in part]
    if default is not None:
        told.append(f"default `{json.dumps(default)}`")
    return (f"`{name}`" + ("" if required else "?"), where, _type(schema), "; ".join(told))


def _table(rows: list[tuple[str, str, str, str]]) -> list[str]:
    if not rows:
        return []
    # Objects have no place that a field comes from.
    cells = [row if any(row[1] for row in rows) else (row[0], row[2], row[3]) for row in rows]
    heads = ("field", "where", "type", "") if len(cells[0]) == 4 else ("field", "type", "")
    lines = [heads, tuple("---" for _ in heads), *cells]
    return ["| " + " | ".join(line).replace("\n", " ") + " |" for line in lines]


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        parts = dict.fromkeys(_type(part) for part in schema["anyOf"])
        return " or ".join(parts)
    if "enum" in schema or "const" in schema:
        return " · ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("format") == "binary" or "base64" in schema.get("properties", {}):
        return "photo"
    if schema.get("type") == "array":
        if "prefixItems" in schema:
            return f"[{', '.join(_type(item) for item in schema['prefixItems'])}]"
        return f"list of {_type(schema['items'])}" + _bounds(schema, "minItems", "maxItems")
    if schema.get("type") == "object":
        return "object"
    kind = {"string": "text", "integer": "integer", "number": "number", "boolean": "boolean", "null": "null"}
    if schema.get("format") == "date-time":
        return "time"
    name = kind.get(schema.get("type", ""), "anything")
    return name + _bounds(schema, "minimum", "maximum") + _bounds(schema, "minLength", "maxLength", " characters")


def _bounds(schema: Schema, least: str, most: str, unit: str = "") -> str:
    low, high = schema.get(least), schema.get(most)
    if low is None and high is None:
        low, high = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
        within = least == "minimum" and low is not None and high is not None
        return f" between {low:g} and {high:g}" if within else ""
    if low is None or high is None:
        return "" if high is None and low is None else f", up to {high:,g}{unit}" if low is None else f", from {low:,g}"
    return f", {low:,g} to {high:,g}{unit}"


def _described(schema: Schema) -> list[str]:
    text = " ".join(str(schema.get("description", "")).split())
    return [text, ""] if text else []


if __name__ == "__main__":
    sys.stdout.write(reference(json.load(sys.stdin)))
