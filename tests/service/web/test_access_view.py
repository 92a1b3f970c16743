"""The access key, refusals, a service that is away; the frame that all views share."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.service.web.conftest import Site, photo

Opened = Callable[..., Page]
VIEWS = ("verify", "gallery", "search", "status")


def test_the_key_is_asked_for_and_stays_in_its_tab(page: Page, site: Site, key: str, portrait: bytes) -> None:
    page.goto(f"{site.url}/")
    dialog = page.get_by_role("dialog", name="Access key")
    expect(dialog.get_by_label("Key", exact=True)).to_be_focused()
    for wrong, told in (("lk_nobody", "not known"), ("naïve key", "letters, digits")):
        dialog.get_by_label("Key", exact=True).fill(wrong)
        page.keyboard.press("Enter")
        expect(dialog.get_by_role("alert")).to_contain_text(told)
    dialog.get_by_label("Key", exact=True).fill(f"  {key} ")
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    expect(page.locator("#state")).to_have_text("Ready")
    expect(page.locator("#verify-fmr option")).to_have_count(4)
    page.reload()
    expect(page.locator("#state")).to_have_text("Ready")
    kept = page.evaluate(
        "[JSON.stringify(sessionStorage), JSON.stringify(localStorage), document.cookie, location.href]"
    )
    assert key in kept[0]
    assert not any(key in other for other in kept[1:])
    other_tab = page.context.new_page()
    other_tab.goto(f"{site.url}/")
    expect(other_tab.get_by_role("dialog", name="Access key")).to_be_visible()
    with site.api(key) as api:
        assert api.put("/galleries/forgotten", json={"name": "Forgotten"}).status_code in (200, 201)
    page.set_input_files("#verify-a input[type=file]", photo("a.jpg", portrait))
    expect(page.locator("#verify-a .overlay rect")).to_have_count(1)
    page.locator('nav a[href="#gallery"]').click()
    expect(page.locator("#galleries")).to_contain_text("Forgotten")
    page.get_by_role("button", name="Change the access key").click()
    page.get_by_role("button", name="Forget the key").click()
    expect(dialog).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0
    # What the key has shown is gone with it.
    expect(page.locator("#galleries")).not_to_contain_text("Forgotten")
    expect(page.locator("#verify-a .overlay")).to_have_count(0)
    with site.api(key) as api:
        assert api.delete("/galleries/forgotten").status_code == 204


def test_a_key_without_the_scope_is_told_so(opened: Opened, site: Site) -> None:
    page = opened("gallery", site.key("--scopes", "verify"))
    page.get_by_label("New gallery").fill("mine")
    page.get_by_role("button", name="Make it").click()
    alert = page.locator("#galleries-told").get_by_role("alert")
    expect(alert).to_contain_text("it needs admin")
    expect(alert).to_contain_text("likeness keys create --scopes")
    page.goto(f"{site.url}/#status")
    expect(page.locator("#status-told")).to_contain_text("Live figures need a key with the scope admin.")
    expect(page.locator("#status-facts")).to_contain_text("Apache-2.0")


def test_too_many_calls_are_told_with_the_time_to_wait(opened: Opened, site: Site, portrait: bytes) -> None:
    page = opened("verify", site.key("--rate", "2"))
    expect(page.locator("#state")).to_have_text("Ready")
    for i in (1, 2):
        page.set_input_files("#verify-a input[type=file]", photo(f"{i}.jpg", portrait))
        page.locator("#verify-a .slot[aria-busy=false]").wait_for()
    told = page.locator("#verify-a").get_by_role("alert")
    expect(told).to_contain_text("Too many calls with this key")
    expect(told).to_contain_text(re.compile(r"Try again in \d+ second"))


def test_a_service_that_is_away_is_waited_for(opened: Opened, portrait: bytes) -> None:
    page = opened("verify")
    expect(page.locator("#state")).to_have_text("Ready")
    page.context.set_offline(True)
    page.set_input_files("#verify-a input[type=file]", photo("a.jpg", portrait))
    expect(page.locator("#banner")).to_contain_text("The service does not answer")
    expect(page.locator("#verify-a").get_by_role("alert")).to_contain_text("no answer")
    expect(page.locator("#state")).to_have_text("No answer")
    page.context.set_offline(False)
    expect(page.locator("#state")).to_have_text("Ready")
    expect(page.locator("#banner")).to_be_hidden()
    # What could not be asked then is asked now.
    expect(page.locator("#verify-a .overlay rect")).to_have_count(1)


def test_status_shows_the_bundle_and_live_figures(opened: Opened, site: Site, key: str, portrait: bytes) -> None:
    page = opened("status")
    facts = page.locator("#status-facts")
    for told in ("open, version 1", "MIT AND Apache-2.0", "Commercial use is permitted", "CPUExecutionProvider"):
        expect(facts).to_contain_text(told)
    expect(page.locator("#status-points tbody tr")).to_have_count(4)
    live = page.locator("#status-live")
    expect(live).to_contain_text("requests a second")
    with site.api(key) as api:
        for _ in range(3):
            assert api.post("/detect", files={"image": portrait}).status_code == 200
    expect(live.get_by_role("img", name=re.compile(r"[1-9]\d* ?m?s"))).to_be_visible()
    expect(live).to_contain_text("mean of the last two minutes")
    expect(live.locator(".stages")).to_contain_text(re.compile(r"detect\s*[\d.]+ ms"))


@pytest.mark.parametrize("width", [360, 1600])
def test_every_view_fits_and_everything_has_a_name(opened: Opened, portrait: bytes, width: int) -> None:
    page = opened("verify")
    page.set_viewport_size({"width": width, "height": 800})
    session = page.context.new_cdp_session(page)
    for place in "ab":
        page.set_input_files(f"#verify-{place} input[type=file]", photo("photo with a long name.jpg", portrait))
    expect(page.locator("#verify-result .verdict")).to_be_visible()
    for view in VIEWS:
        page.locator(f'nav a[href="#{view}"]').click()
        expect(page.get_by_role("heading", level=1)).to_have_text(view.title())
        expect(page.get_by_role("link", name=view.title(), exact=True)).to_have_attribute("aria-current", "page")
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
        tree = session.send("Accessibility.getFullAXTree")["nodes"]
        nameless = [
            node["role"]["value"]
            for node in tree
            if not node["ignored"]
            and any(p["name"] == "focusable" and p["value"]["value"] for p in node.get("properties", []))
            and not node.get("name", {}).get("value")
            and node["role"]["value"] not in ("main", "RootWebArea")
        ]
        assert nameless == [], view
