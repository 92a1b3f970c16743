"""The page in a real Chromium, against a real server that asks for access keys."""

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from service.cli.main import main

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
# A machine that has much else to do.
expect.set_options(timeout=20_000)
NAMES = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Site:
    """A running service. ``url`` is where its page is."""

    url: str
    folder: Path

    def key(self, *flags: str) -> str:
        """A new access key, with all scopes unless ``flags`` of ``likeness keys create`` say otherwise."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            assert main(["keys", "create", "--json", "--data-dir", str(self.folder), *flags]) == 0
        key: str = json.loads(out.getvalue())["key"]
        return key

    def api(self, key: str) -> httpx2.Client:
        return httpx2.Client(base_url=f"{self.url}/v1", headers={"authorization": f"Bearer {key}"}, timeout=60)


@pytest.fixture(scope="package")
def site(
    served: Callable[..., AbstractContextManager[Any]], data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with served(data_dir, folder, auth=True) as server:
        yield Site(server.url, folder)


@pytest.fixture(scope="package")
def key(site: Site) -> str:
    """One with all scopes."""
    return site.key()


@pytest.fixture(scope="package")
def browser(group_photo: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser whose webcam sees the group photo."""
    named = os.environ.get("LIKENESS_TEST_BROWSER")
    program = shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)
    if program is None and named:
        pytest.fail(f"There is no browser {named}, as LIKENESS_TEST_BROWSER has it.", pytrace=False)
    if program is None:
        pytest.skip("The page is tested in Chromium; on Debian: apt-get install --no-install-recommends chromium")
    film = tmp_path_factory.mktemp("webcam") / "webcam.mjpeg"
    frame = io.BytesIO()
    Image.open(io.BytesIO(group_photo)).crop((0, 0, 1280, 880)).save(frame, "JPEG", quality=95)
    film.write_bytes(frame.getvalue() * 2)
    with sync_playwright() as playwright:
        flags = [*FLAGS, f"--use-file-for-fake-video-capture={film}"]
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    """A fresh page that nobody has given a key yet. At the end: nothing came from elsewhere, and nothing went wrong."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, permissions=["camera"])
    context.set_default_timeout(20_000)
    requested: list[str] = []
    wrong: list[str] = []
    context.on("request", lambda request: requested.append(request.url))
    page = context.new_page()
    # Chromium writes every refusal of the API there too; what is shown of those is tested.
    page.on(
        "console",
        lambda said: (
            wrong.append(said.text)
            if said.type in ("error", "warning") and not said.text.startswith("Failed to load resource")
            else None
        ),
    )
    # As long as somebody listens, no window of the system's opens.
    page.on("filechooser", lambda _: None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    yield page
    context.close()
    elsewhere = [url for url in requested if not url.startswith((f"{site.url}/", f"blob:{site.url}/"))]
    assert elsewhere == []
    assert not [url for url in requested if "lk_" in url]
    assert wrong == []


@pytest.fixture
def opened(page: Page, site: Site, key: str) -> Callable[..., Page]:
    """``opened("gallery")``: the page at this view, with a key (of all scopes, if no other is given)."""

    def open_at(view: str, used: str = key) -> Page:
        page.add_init_script(f"sessionStorage.setItem('likeness.key', '{used}')")
        page.goto(f"{site.url}/#{view}")
        return page

    return open_at


def photo(name: str, content: bytes) -> Any:
    """A file as an input takes it."""
    return {"name": name, "mimeType": "application/octet-stream", "buffer": content}
