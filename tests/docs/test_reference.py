"""docs/reference.md is what the service's OpenAPI document makes."""

import json
import subprocess
import sys

import httpx

from service.api.reference import reference
from tests.conftest import ROOT, Running


def test_the_reference_is_up_to_date(running: Running) -> None:
    document = httpx.get(f"{running.url}/openapi.json").text
    command = [sys.executable, "-m", "service.api.reference"]
    made = subprocess.run(command, input=document, capture_output=True, text=True, check=True, cwd=ROOT)
    assert made.stdout == (ROOT / "docs" / "reference.md").read_text(encoding="utf-8"), (
        "Make it anew: curl -s http://127.0.0.1:8000/openapi.json | python -m service.api.reference > docs/reference.md"
    )


def test_everything_is_in_it(running: Running) -> None:
    document = json.loads(httpx.get(f"{running.url}/openapi.json").text)
    lines = reference(document).splitlines()
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"### `{method.upper()} {path}`" in lines
    text = "\n".join(lines)
    for schema in document["components"]["schemas"].values():
        assert all(f"| `{field}`" in text for field in schema.get("properties", {}))
    # Links lead to objects that are described.
    objects = {line.removeprefix("### ").lower() for line in lines if line.startswith("### ")}
    assert {part.partition(")")[0] for part in text.split("](#")[1:]} <= objects
