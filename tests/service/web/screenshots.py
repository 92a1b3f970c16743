"""Pictures of every view of the page, to be looked at: light and dark, narrow and wide, results and refusals.

Their photos come out of installed packages and are not ours to give away, so the pictures stay in ``reports/``; only
those without faces go into ``docs/pictures``.
"""

import argparse
import io
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import requests
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.benchmarks.processes import likeness
from tests.conftest import package_folder
from tests.service.web.conftest import FLAGS, NAMES

WIDTHS, HEIGHT = (1440, 390), 900
PEOPLE = ("Ada Brook", "Ben Cole", "Cleo", "Dora Finch", "Emil", "Fay")


@dataclass(frozen=True)
class Camera:
    """One page, and where its pictures go. ``suffix`` names scheme and width."""

    page: Page
    url: str
    out: Path
    suffix: str

    def open(self, view: str) -> None:
        self.page.goto(f"{self.url}/#{view}")
        self.page.reload()
        expect(self.page.locator("#state")).to_have_text("Ready", timeout=20_000)

    def shoot(self, name: str, whole: bool = True) -> None:
        # Transitions.
        self.page.wait_for_timeout(400)
        self.page.screenshot(path=self.out / f"{name}-{self.suffix}.png", full_page=whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path("reports/page"))
    args = parser.parse_args()
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        parser.error("Chromium is needed; on Debian: apt-get install --no-install-recommends chromium")
    args.out.mkdir(parents=True, exist_ok=True)
    with likeness(args.data_dir, "open", "--no-auth") as server, sync_playwright() as playwright:
        photos = make_photos(server.url, args.out / "photos")
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        for camera in cameras(browser, server.url, args.out):
            take_all(camera, photos)
        browser.close()
    print(f"{len(list(args.out.glob('*.png')))} pictures in {args.out}")


def cameras(browser: Browser, url: str, out: Path) -> Iterator[Camera]:
    for scheme in ("light", "dark"):
        for width in WIDTHS:
            context = browser.new_context(
                color_scheme=scheme,  # type: ignore[arg-type]
                viewport={"width": width, "height": HEIGHT},
                permissions=["camera"],
            )
            yield Camera(context.new_page(), url, out, f"{scheme}-{width}")
            context.close()


def make_photos(url: str, folder: Path) -> Path:
    """``group.jpg``, ``one.png``, and ``people`` with two photos for each person of the group photo and a poor one."""
    folder.mkdir(exist_ok=True)
    shutil.copy(package_folder("insightface") / "data" / "images" / "t1.jpg", folder / "group.jpg")
    shutil.copy(package_folder("skimage") / "data" / "astronaut.png", folder / "one.png")
    shutil.copy(package_folder("skimage") / "data" / "rocket.jpg", folder / "nobody.jpg")
    group = Image.open(folder / "group.jpg")
    content = (folder / "group.jpg").read_bytes()
    faces = requests.post(f"{url}/v1/detect", files={"image": content}, timeout=60).json()["faces"]
    for name, face in zip(PEOPLE, faces, strict=True):
        box, place = face["box"], folder / "people" / name
        place.mkdir(parents=True, exist_ok=True)
        x, y, half = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, 0.75 * box["height"]
        for i, wider in enumerate((1.0, 1.2)):
            cut = group.crop((int(x - half * wider), int(y - half * wider), int(x + half), int(y + half)))
            cut.save(place / f"{i + 1}.jpg", quality=92)
    shutil.copy(folder / "nobody.jpg", folder / "people" / PEOPLE[1] / "launch.jpg")
    return folder


def take_all(camera: Camera, photos: Path) -> None:
    for take in (take_verify, take_gallery, take_search, take_status, take_frame):
        take(camera, photos)


def take_verify(camera: Camera, photos: Path) -> None:
    page = camera.page
    camera.open("verify")
    camera.shoot("verify-empty")
    result = page.locator("#verify-result")
    page.set_input_files("#verify-a input", photos / "one.png")
    page.set_input_files("#verify-b input", photos / "group.jpg")
    expect(result.get_by_role("alert")).to_be_visible()
    camera.shoot("verify-several")
    result.get_by_role("button").click()
    expect(result.locator(".verdict.no")).to_be_visible()
    camera.shoot("verify-no-match")
    small = io.BytesIO()
    Image.open(photos / "one.png").convert("RGB").resize((300, 300)).rotate(8).save(small, "JPEG", quality=50)
    page.set_input_files("#verify-b input", {"name": "b.jpg", "mimeType": "image/jpeg", "buffer": small.getvalue()})
    expect(result.locator(".verdict.match")).to_be_visible()
    camera.shoot("verify-match")
    page.set_input_files("#verify-a input", photos / "nobody.jpg")
    expect(page.locator("#verify-a").get_by_role("alert")).to_be_visible()
    camera.shoot("verify-nobody")


def take_gallery(camera: Camera, photos: Path) -> None:
    page = camera.page
    requests.delete(f"{camera.url}/v1/galleries/staff", timeout=60)
    camera.open("gallery")
    page.get_by_label("New gallery").fill("staff")
    page.get_by_role("button", name="Make it").click()
    expect(page.locator("#gallery-open h2")).to_have_text("staff")
    camera.shoot("gallery-empty")
    page.get_by_label("Choose a folder").set_input_files(photos / "people")
    panel = page.get_by_role("region", name="Enrol")
    start = panel.get_by_role("button", name="Enrol 13 photos")
    expect(start).to_be_visible()
    camera.shoot("gallery-preview")
    start.click()
    expect(panel).to_contain_text("enrolled")
    camera.shoot("gallery-running")
    expect(panel).to_contain_text("13 of 13 photos", timeout=60_000)
    page.locator("summary", has_text=PEOPLE[0]).click()
    expect(page.locator(".faces li")).to_have_count(2)
    camera.shoot("gallery-enrolled")
    page.get_by_role("button", name=f"Delete {PEOPLE[0]}").click()
    camera.shoot("gallery-delete", whole=False)


def take_search(camera: Camera, photos: Path) -> None:
    page = camera.page
    camera.open("search")
    page.get_by_role("combobox", name="Gallery", exact=True).select_option("staff")
    camera.shoot("search-empty")
    for name, count in (("group", 6), ("one", 1)):
        [photo] = photos.glob(f"{name}.*")
        page.set_input_files("#search-photo input", photo)
        expect(page.locator(".probe-card")).to_have_count(count)
        camera.shoot(f"search-{name}")


def take_status(camera: Camera, photos: Path) -> None:
    """While somebody asks something."""
    stop = threading.Event()

    def ask() -> None:
        content = (photos / "one.png").read_bytes()
        for i in range(10_000):
            if stop.wait(0.05 + 0.2 * (i % 40 > 20)):
                return
            requests.post(f"{camera.url}/v1/detect", files={"image": content}, timeout=60)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        camera.open("status")
        # Long enough for a line in the charts.
        camera.page.wait_for_timeout(24_000)
        camera.shoot("status")
    finally:
        stop.set()
        asking.join()


def take_frame(camera: Camera, photos: Path) -> None:
    page = camera.page
    camera.open("verify")
    page.get_by_role("button", name="Give an access key").click()
    camera.shoot("key", whole=False)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Webcam for Photo A").click()
    expect(page.get_by_role("button", name="Take the photo")).to_be_enabled()
    camera.shoot("webcam", whole=False)
    page.keyboard.press("Escape")
    page.context.set_offline(True)
    page.set_input_files("#verify-a input", photos / "one.png")
    expect(page.locator("#banner")).to_contain_text("does not answer")
    camera.shoot("away")
    page.context.set_offline(False)


if __name__ == "__main__":
    main()
