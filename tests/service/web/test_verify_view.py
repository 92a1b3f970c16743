"""Verify, as somebody does it who looks at the page."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from service.engine import Engine
from service.recognition.align import align
from tests.service.web.conftest import photo

Opened = Callable[..., Page]
A, B = "#verify-a", "#verify-b"


def give(page: Page, place: str, name: str, content: bytes) -> None:
    page.set_input_files(f"{place} input[type=file]", photo(name, content))


def test_two_photos_of_one_person_match(opened: Opened, portrait: bytes, portrait_again: bytes) -> None:
    page = opened("verify")
    expect(page.get_by_role("button", name="Compare")).to_be_disabled()
    give(page, A, "a.jpg", portrait)
    expect(page.locator(f"{A} .overlay rect")).to_have_count(1)
    expect(page.locator(f"{A} .overlay path")).to_have_count(5)
    expect(page.locator(f"{A} .crops canvas")).to_have_count(1)
    give(page, B, "b.jpg", portrait_again)
    result = page.locator("#verify-result")
    expect(result.locator(".verdict .big")).to_have_text("Match: the same person")
    expect(page.locator("#said")).to_contain_text("Match: the same person")
    expect(result).to_contain_text("1 in 10,000 pairs of different persons")
    expect(result.locator(".pole")).to_have_count(4)
    expect(result.locator(".pole.used")).to_have_text("1 in 10,000")
    expect(result.get_by_role("img", name="Similarity")).to_be_visible()
    expect(result.locator(".crop canvas")).to_have_count(2)
    rows = result.locator("tbody tr")
    expect(rows).to_have_count(4)
    # Stricter and stricter, with the decision that follows from each threshold.
    similarity = float(result.locator(".marker .value").inner_text())
    for row in rows.all():
        _, threshold, _, said = row.locator("th, td").all_inner_texts()
        assert said == ("match" if similarity >= float(threshold) else "no match")
    page.get_by_label("False match rate").select_option(label="1 in 1,000,000")
    expect(result.locator(".pole.used")).to_have_text("1 in 1,000,000")


def test_of_several_faces_nobody_is_chosen_silently(opened: Opened, portrait: bytes, group_photo: bytes) -> None:
    page = opened("verify")
    give(page, A, "portrait.jpg", portrait)
    give(page, B, "group.jpg", group_photo)
    result = page.locator("#verify-result")
    expect(result.get_by_role("alert")).to_contain_text("Photo B shows 6 faces")
    expect(page.locator(f"{B} .photo .tag")).to_have_count(6)
    result.get_by_role("button", name="Compare the largest").click()
    expect(result.locator(".verdict .big")).to_have_text("No match: different persons")
    expect(result).to_contain_text("Photo B shows 6 faces: the largest was compared.")
    expect(page.locator(f"{B} .overlay .chosen")).to_have_count(1)
    expect(page.locator(f"{B} .photo .tag.chosen")).to_have_text("1")


def test_the_crops_are_those_that_the_embedder_sees(opened: Opened, engine: Engine, group_photo: bytes) -> None:
    page = opened("verify")
    give(page, A, "group.jpg", group_photo)
    canvases = page.locator(f"{A} .crops canvas")
    expect(canvases).to_have_count(6)
    image, faces = engine.detect(group_photo)
    alignment = engine.card.contract.alignment
    for i, found in enumerate(faces):
        data = canvases.nth(i).evaluate("(c) => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]")
        shown = np.array(data).reshape(alignment.size, alignment.size, 4)[..., :3]
        seen = align(image, found.face.landmarks, alignment.template, alignment.size)
        # Two resamplers: alike but for fine texture; half a pixel off, or one landmark in another's place, is far more.
        assert np.abs(shown - seen.astype(int)).mean() < 2.5


def test_a_photo_that_lies_on_its_side_is_shown_upright(opened: Opened, portrait: bytes) -> None:
    upright = Image.open(io.BytesIO(portrait)).crop((0, 0, 512, 400))
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    upright.rotate(90, expand=True).save(out, "JPEG", exif=exif, quality=92)
    page = opened("verify")
    give(page, A, "side.jpg", out.getvalue())
    expect(page.locator(A)).to_contain_text("side.jpg, 512 × 400, 1 face")
    shown, drawn = page.locator(f"{A} .photo img").bounding_box(), page.locator(f"{A} .overlay").bounding_box()
    assert shown is not None
    assert drawn == pytest.approx(shown, abs=1)
    assert shown["width"] / shown["height"] == pytest.approx(512 / 400, abs=0.02)


def test_what_is_no_photo_or_shows_nobody_is_said_where_it_stands(
    opened: Opened, portrait: bytes, scenery: bytes, tmp_path: Path
) -> None:
    page = opened("verify")
    give(page, A, "notes.jpg", b"not a photo at all")
    expect(page.locator(A).get_by_role("alert")).to_contain_text("Not a photo that can be read")
    give(page, A, "cut.jpg", portrait[:5000])
    expect(page.locator(A).get_by_role("alert")).to_contain_text("The photo is damaged")
    give(page, A, "scenery.jpg", scenery)
    expect(page.locator(A).get_by_role("alert")).to_contain_text("No face was found")
    give(page, B, "b.jpg", portrait)
    expect(page.locator(f"{B} .overlay rect")).to_have_count(1)
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#verify-result").get_by_role("alert")).to_contain_text("No face was found in Photo A")
    (tmp_path / "large.jpg").write_bytes(portrait + bytes(34_000_000))
    page.set_input_files(f"{A} input[type=file]", tmp_path / "large.jpg")
    expect(page.locator(A).get_by_role("alert")).to_contain_text("The photo is too large")
    page.get_by_role("button", name="Remove Photo A").click()
    expect(page.locator(A)).to_contain_text("Drop a photo here")
    expect(page.get_by_role("button", name="Compare")).to_be_disabled()


def test_dropped_and_pasted_photos(opened: Opened, portrait: bytes, portrait_again: bytes) -> None:
    page = opened("verify")
    make = """(bytes) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(bytes)], 'given.jpg', {type: 'image/jpeg'}));
        return transfer;
    }"""
    page.dispatch_event(f"{B} .slot", "drop", {"dataTransfer": page.evaluate_handle(make, list(portrait))})
    expect(page.locator(f"{B} .overlay rect")).to_have_count(1)
    paste = f"""(bytes) => document.dispatchEvent(new ClipboardEvent('paste', {{clipboardData: ({make})(bytes)}}))"""
    page.evaluate(paste, list(portrait_again))
    expect(page.locator("#verify-result .verdict.match")).to_be_visible()


def test_the_webcam(opened: Opened) -> None:
    page = opened("verify")
    page.get_by_role("button", name="Webcam for Photo A").click()
    dialog = page.get_by_role("dialog", name="Webcam")
    dialog.get_by_role("button", name="Take the photo").click()
    expect(page.locator(A)).to_contain_text(re.compile(r"webcam\.jpg, \d+ × \d+, \d faces"))
    assert page.locator(f"{A} .overlay rect").count() >= 4
    expect(dialog).to_be_hidden()
    assert page.evaluate("document.getElementById('camera-video').srcObject") is None
    page.get_by_role("button", name="Webcam for Photo B").click()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.locator(B)).to_contain_text("Drop a photo here")


def test_verify_without_a_mouse(opened: Opened, portrait: bytes, portrait_again: bytes) -> None:
    page = opened("verify")
    expect(page.locator("#verify-fmr option")).to_have_count(4)
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        focused = page.evaluate("document.activeElement.innerText || document.activeElement.type || ''").strip()
        reached.append(focused or "?")
        if page.evaluate("document.activeElement.matches('input[type=file]')"):
            with page.expect_file_chooser() as chooser:
                page.keyboard.press("Space")
            which = page.evaluate("document.activeElement.closest('#verify-a') ? 'a' : 'b'")
            chooser.value.set_files(photo(f"{which}.jpg", portrait if which == "a" else portrait_again))
            page.locator(f"#verify-{which} .overlay rect").wait_for()
        if page.evaluate("document.activeElement.id === 'verify-go'"):
            break
    assert page.evaluate("document.activeElement.id") == "verify-go", reached
    page.keyboard.press("Enter")
    expect(page.locator("#verify-result .verdict.match")).to_be_visible()
    assert reached[0] == "Skip to the content"
