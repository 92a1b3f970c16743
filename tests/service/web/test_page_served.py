"""How the page's files are served; no browser."""

import re
import tomllib
from pathlib import Path

from fastapi.testclient import TestClient

from service.web.page import STATIC

ROOT = Path(__file__).resolve().parents[3]
FILES = sorted(path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*") if path.is_file())
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def test_every_file_is_served_with_its_type_and_asked_for_again(client: TestClient) -> None:
    assert len(FILES) > 20
    for path in ["/", *(f"/page/{name}" for name in FILES)]:
        answer = client.get(path)
        assert answer.status_code == 200
        kind = TYPES[Path(path).suffix or ".html"]
        assert answer.headers["content-type"].split(";")[0].replace("application/java", "text/java") == kind
        assert answer.headers["cache-control"] == "no-cache"
        again = client.get(path, headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert client.head(path).headers["etag"] == answer.headers["etag"]


def test_the_page_is_held_to_itself(client: TestClient) -> None:
    headers = client.get("/").headers
    policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    everything = "".join((STATIC / name).read_text() for name in FILES)
    # The name of SVG is the only address that is not the service's own, and nobody fetches it.
    assert set(re.findall(r"https?://[^\s\"'`]+", everything)) == {"http://www.w3.org/2000/svg"}


def test_it_stays_out_of_the_document_and_leaves_other_paths_alone(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert all(path.startswith("/v1/") or path == "/metrics" for path in paths)
    for path in ("/page/nothing", "/page/../pyproject.toml", "/page/%2e%2e/page.py", "/nothing", "/favicon.ico"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "invalid_request")
    assert client.post("/").status_code == 405
    assert client.post("/page/icon.svg").status_code == 405


def test_the_package_has_every_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["service"]
    packed = {path for pattern in patterns for path in (ROOT / "service").glob(pattern)}
    assert {STATIC / name for name in FILES} <= packed
