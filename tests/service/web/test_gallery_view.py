"""Gallery: a folder of photos is dropped, some are rejected, some persons are deleted."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from service.cli.main import main
from tests.service.web.conftest import Site

Opened = Callable[..., Page]


@pytest.fixture
def people(tmp_path: Path, group_portraits: list[bytes], portrait: bytes, scenery: bytes) -> Path:
    """Photos of three persons in folders, one of nobody, one that is none, and what the page must leave out."""
    folder = tmp_path / "people"
    for name, content in {
        "Ann Bell/1.jpg": group_portraits[0],
        "Ann Bell/2.jpg": portrait,
        "josé/portrait.jpg": group_portraits[2],
        "josé/scenery.jpg": scenery,
        "zoe/zoe.jpeg": group_portraits[5],
        "zoe/broken.png": b"\x89PNG\r\n\x1a\nbroken",
        "zoe/notes.txt": b"no photo",
        "zoe/.hidden.jpg": b"no photo",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def make_gallery(page: Page, name: str) -> None:
    page.get_by_label("New gallery").fill(name)
    page.get_by_role("button", name="Make it").click()
    expect(page.locator("#gallery-open h2")).to_have_text(name)


def drop(page: Page, folder: Path) -> None:
    """As a file manager does it: the browser gets a path and reads the folder itself."""
    place = page.locator("#gallery-open .drop").bounding_box()
    assert place is not None
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(folder)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": place["x"] + 9, "y": place["y"] + 9, "data": data})


def test_a_dropped_folder_is_enrolled(
    opened: Opened, site: Site, key: str, people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = opened("gallery")
    make_gallery(page, "dropped")
    panel = page.get_by_role("region", name="Enrol")
    drop(page, people)
    expect(panel).to_contain_text("3 persons, 6 photos; 2 other files left out")
    panel.get_by_label("Poor photos").select_option("off")
    panel.get_by_role("button", name="Enrol 6 photos").click()
    expect(panel).to_contain_text("6 of 6 photos: 4 enrolled, 2 rejected.")
    rejected = panel.locator(".rejected li")
    expect(rejected).to_have_count(2)
    expect(rejected.filter(has_text="people/josé/scenery.jpg")).to_contain_text("No face was found in the photo")
    expect(rejected.filter(has_text="people/zoe/broken.png")).to_contain_text("damaged")
    persons = page.get_by_role("region", name="Persons").locator(".persons > li")
    expect(persons).to_have_count(3)
    with site.api(key) as api:
        told = {p["name"]: p["faces"] for p in api.get("/galleries/dropped/persons").json()["persons"]}
    assert told == {"Ann Bell": 2, "josé": 1, "zoe": 1}
    drop(page, people)
    panel.get_by_role("button", name="Enrol 6 photos").click()
    expect(panel).to_contain_text("0 enrolled, 4 already there, 2 rejected.")
    # The command line makes the same ids of the same folder.
    capsys.readouterr()
    command = ["enrol", "dropped", str(people), "--url", site.url, "--key", key, "--json"]
    main([*command, "--rejected", str(people.parent / "rejected.csv")])
    assert json.loads(capsys.readouterr().out)["already_there"] == 4


def test_deleting_asks_first(opened: Opened, site: Site, key: str) -> None:
    with site.api(key) as api:
        api.put("/galleries/deleted")
        for person in ("ann", "bob"):
            api.put(f"/galleries/deleted/persons/{person}", json={"name": person.title(), "metadata": {"floor": 3}})
        page = opened("gallery")
        page.get_by_role("button", name=re.compile("^deleted")).click()
        page.locator("summary", has_text="Ann").click()
        expect(page.locator(".person-open").first).to_contain_text("floor")
        page.get_by_role("button", name="Delete Ann").click()
        dialog = page.get_by_role("dialog", name="Delete Ann?")
        expect(dialog.get_by_role("button", name="Keep")).to_be_focused()
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        assert api.get("/galleries/deleted/persons/ann").status_code == 200
        page.get_by_role("button", name="Delete Ann").click()
        dialog.get_by_role("button", name="Delete").click()
        expect(page.locator("#gallery-open .told")).to_contain_text(re.compile(r"Receipt \d+:[0-9a-f]+"))
        expect(page.locator(".persons > li")).to_have_count(1)
        assert api.get("/galleries/deleted/persons/ann").status_code == 404
        page.get_by_role("button", name="Delete the gallery").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(page.get_by_role("button", name=re.compile("^deleted"))).to_have_count(0)
        assert api.get("/galleries/deleted").status_code == 404


def test_an_id_of_dots_deletes_nothing_else(opened: Opened, site: Site, key: str, portrait: bytes) -> None:
    with site.api(key) as api:
        api.put("/galleries/dots")
        api.put("/galleries/dots/persons/ann")
        made = api.post("/galleries/dots/persons/ann/faces", files={"images": portrait}, data={"face_ids": ".."})
        assert made.status_code == 201
        page = opened("gallery")
        page.get_by_role("button", name=re.compile("^dots")).click()
        page.locator("summary", has_text="ann").click()
        page.get_by_role("button", name="Delete face ..", exact=True).click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(page.locator(".person-open").get_by_role("alert")).to_contain_text("cannot ask for the id ..")
        assert api.get("/galleries/dots/persons/ann").status_code == 200
        assert api.delete("/galleries/dots").status_code == 204


def test_a_run_can_be_stopped(opened: Opened, site: Site, key: str, tmp_path: Path, portrait: bytes) -> None:
    for i in range(60):
        # Bytes after the end of a JPEG are nothing to a decoder, but another photo to the digest.
        (tmp_path / f"ann {i}.jpg").write_bytes(portrait + bytes([i]))
    page = opened("gallery")
    make_gallery(page, "stopped")
    page.get_by_label("Choose photos").set_input_files(sorted(tmp_path.iterdir()))
    panel = page.get_by_role("region", name="Enrol")
    expect(panel).to_contain_text("1 person, 60 photos")
    panel.get_by_role("button", name="Enrol 60 photos").click()
    expect(panel).to_contain_text(re.compile(r"[1-9]\d* enrolled"))
    panel.get_by_role("button", name="Stop").click()
    expect(panel).to_contain_text("Stopped after")
    told = re.search(r"(\d+) of 60 photos: (\d+) enrolled", panel.inner_text())
    assert told is not None
    with site.api(key) as api:
        there = api.get("/galleries/stopped").json()["faces"]
    # What was on its way when it was stopped may be there too.
    assert int(told[2]) <= there <= int(told[2]) + 3 < 60


def test_a_busy_service_is_waited_for(opened: Opened, site: Site, tmp_path: Path, group_portraits: list[bytes]) -> None:
    for name, content in zip(("ann", "bob", "cleo"), group_portraits, strict=False):
        (tmp_path / f"{name}.jpg").write_bytes(content)
    page = opened("gallery", site.key("--concurrency", "1"))
    make_gallery(page, "busy")
    refused: list[float] = []
    page.on("response", lambda answer: refused.append(time.monotonic()) if answer.status == 429 else None)
    page.get_by_label("Choose photos").set_input_files(sorted(tmp_path.iterdir()))
    panel = page.get_by_role("region", name="Enrol")
    expect(panel).to_contain_text("3 persons, 3 photos")
    panel.get_by_label("Poor photos").select_option("off")
    panel.get_by_role("button", name="Enrol 3 photos").click()
    expect(panel).to_contain_text("The service is busy; going on in 1 second")
    expect(panel).to_contain_text("3 of 3 photos: 3 enrolled, 0 rejected.")
    assert refused
    expect(page.get_by_role("region", name="Persons").locator(".persons > li")).to_have_count(3)
