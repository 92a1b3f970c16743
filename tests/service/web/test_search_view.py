"""Search: known, unknown, several at once, and a key that may do nothing else."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.service.web.conftest import Site, photo

Opened = Callable[..., Page]


@pytest.fixture(scope="module", autouse=True)
def staff(site: Site, key: str, group_portraits: list[bytes]) -> Iterator[None]:
    with site.api(key) as api:
        api.put("/galleries/staff")
        for name, i in (("Ann", 0), ("Bob", 2), ("Cleo", 5)):
            path = f"/galleries/staff/persons/{name.lower()}"
            api.put(path, json={"name": name})
            answer = api.post(f"{path}/faces", files={"images": group_portraits[i]}, data={"quality": "off"})
            assert answer.status_code == 201
        yield
        api.delete("/galleries/staff")


def search(page: Page, name: str, content: bytes) -> None:
    page.get_by_role("combobox", name="Gallery", exact=True).select_option("staff")
    page.set_input_files("#search-photo input[type=file]", photo(name, content))


def test_who_is_known_and_who_is_not(opened: Opened, group_photo: bytes, portrait: bytes) -> None:
    page = opened("search")
    search(page, "group.jpg", group_photo)
    answers = page.locator(".probe-card")
    expect(answers).to_have_count(6)
    expect(answers.nth(0).locator(".verdict .big")).to_have_text("Identified: Ann")
    expect(answers.nth(1).locator(".verdict .big")).to_have_text("Unknown: nobody of this gallery")
    expect(answers.nth(2).locator(".verdict .big")).to_have_text("Identified: Bob")
    for answer in answers.all():
        expect(answer.get_by_role("img", name="Aligned crop of the probe")).to_be_visible()
        expect(answer.locator(".candidate")).to_have_count(3)
    expect(answers.nth(0).locator(".candidate.reaches")).to_contain_text("reaches the threshold")
    expect(page.locator("#search-result")).to_contain_text("among 3 persons with 3 photos: 1 in 100 searches")
    search(page, "stranger.jpg", portrait)
    expect(answers).to_have_count(1)
    expect(answers.locator(".verdict.no .big")).to_have_text("Unknown: nobody of this gallery")
    page.get_by_label("Strangers taken for somebody").select_option("0.001")
    expect(page.locator("#search-result")).to_contain_text("1 in 1,000 searches")


def test_the_webcam_finds_them_too(opened: Opened) -> None:
    page = opened("search")
    page.get_by_role("combobox", name="Gallery", exact=True).select_option("staff")
    page.get_by_role("button", name="Webcam for Probe").click()
    page.get_by_role("button", name="Take the photo").click()
    expect(page.locator(".verdict.match .big").first).to_contain_text("Identified: ")


def test_a_key_for_searches_alone(opened: Opened, site: Site, group_portraits: list[bytes]) -> None:
    page = opened("search", site.key("--scopes", "search"))
    search(page, "ann.jpg", group_portraits[0])
    expect(page.locator(".verdict .big")).to_have_text("Identified: Ann")
    expect(page.locator("#search-result")).to_contain_text("Crops need the scope verify.")
