"""The examples as users run them: scripts in processes of their own, against a real service, with photos of faces.

CompreFace cannot run in these tests; a small HTTP server stands for it, which answers as its REST API is documented.
"""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import cv2
import numpy as np
import pytest
from PIL import Image

from likeness import Client, person_id_of
from tests.conftest import ROOT, Running
from tests.served import answering

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def example(running: Running, tmp_path: Path) -> Run:
    """Runs an example in a folder of its own."""

    def run(name: str, *arguments: object, **more: str) -> "subprocess.CompletedProcess[str]":
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("LIKENESS_")},
            "PYTHONPATH": str(ROOT),
            "LIKENESS_URL": running.url,
            "LIKENESS_API_KEY": running.key,
            **more,
        }
        command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=120, env=environment, cwd=tmp_path, check=False
        )

    return run


@pytest.fixture
def client(running: Running) -> Iterator[Client]:
    with Client(running.url, running.key) as client:
        yield client


@pytest.fixture
def gallery() -> str:
    return f"g-{uuid4().hex}"


def written(folder: Path, **photos: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in photos.items():
        (folder / name.replace("_", ".")).write_bytes(content)
    return folder


def enrolled(client: Client, gallery: str) -> dict[str | None, int]:
    """How many faces each person has, by name."""
    return {person.name: person.faces for person in client.persons(gallery)}


def test_photos_of_one_person_are_found_in_a_folder(
    example: Run, tmp_path: Path, portrait: bytes, portrait_again: bytes, group_photo: bytes, scenery: bytes
) -> None:
    folder = written(
        tmp_path / "photos", a_jpg=portrait, b_jpg=portrait_again, six_jpg=group_photo, none_jpg=scenery, x_png=b"x"
    )
    run = example("compare_folder.py", folder, "--fmr", "1e-3")
    assert run.returncode == 0, run.stderr
    pair, summary, group = run.stdout.splitlines()
    assert pair.split("  ")[1:] == ["a.jpg", "b.jpg"]
    assert float(pair.split()[0]) > 0.5
    assert summary.startswith("5 photos, 8 faces, 1 pairs from 0.")
    assert group == "  a.jpg, b.jpg"
    assert "x.png" in run.stderr


def test_who_comes_and_goes_in_a_video(
    example: Run, client: Client, gallery: str, tmp_path: Path, group_photo: bytes, group_portraits: list[bytes]
) -> None:
    client.put_gallery(gallery)
    client.put_person(gallery, "p1", name="The first")
    client.enrol(gallery, "p1", [group_portraits[0]], faces="largest")
    # Two seconds of nobody, two of the group, one of nobody.
    group = cv2.imdecode(np.frombuffer(group_photo, np.uint8), cv2.IMREAD_COLOR)
    nobody = np.full_like(group, 90)
    video = tmp_path / "visit.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 5, (group.shape[1], group.shape[0]))
    assert writer.isOpened()
    for frame in [nobody] * 10 + [group] * 10 + [nobody] * 5:
        writer.write(frame)
    writer.release()
    run = example("watch_camera.py", gallery, "--file", video, "--every", "1")
    assert run.returncode == 0, run.stderr
    assert [line.split(maxsplit=2) for line in run.stdout.splitlines()] == [
        ["2.0", "s", "+ The first"],
        ["2.0", "s", "+ somebody unknown"],
        ["4.0", "s", "- The first"],
        ["4.0", "s", "- somebody unknown"],
    ]
    missing = example("watch_camera.py", gallery, "--file", tmp_path / "none.avi")
    assert (missing.returncode, "cannot be opened as a video" in missing.stderr) == (2, True)


def test_a_database_of_deepface(
    example: Run, client: Client, gallery: str, tmp_path: Path, portrait: bytes, portrait_again: bytes, scenery: bytes
) -> None:
    database = written(tmp_path / "db" / "Alice", one_jpg=portrait, none_jpeg=scenery).parent
    written(database / "Alice" / "2019", two_JPG=portrait_again)
    as_png = io.BytesIO()
    Image.open(io.BytesIO(portrait)).save(as_png, "PNG")
    written(database, Bob_png=as_png.getvalue(), ds_pkl=b"embeddings of other networks")
    run = example("migrate_deepface.py", gallery, database)
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"{gallery}: 2 persons, 3 photos enrolled, 0 already there, 1 rejected\n"
    assert "none.jpeg: face_not_found" in run.stderr
    assert enrolled(client, gallery) == {"Alice": 2, "Bob": 1}
    again = example("migrate_deepface.py", gallery, database)
    assert "0 photos enrolled, 3 already there, 1 rejected" in again.stdout
    (tmp_path / "empty").mkdir()
    assert example("migrate_deepface.py", gallery, tmp_path / "empty").returncode == 2


class Answering(BaseHTTPRequestHandler):
    """A web server with the answers of ``paths``; those below /api only to who has the key."""

    paths: dict[str, bytes]
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        url = urlsplit(self.path)
        allowed = not url.path.startswith("/api") or self.headers["x-api-key"] == "peer-key"
        key = f"{url.path}?page={parse_qs(url.query)['page'][0]}" if url.query else url.path
        content = self.paths.get(key) if allowed else None
        self.send_response(404 if content is None else 200)
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[tuple[str, type[Answering]]]:
    handler = type("Answering", (Answering,), {"paths": {}, "asked": []})
    with answering(handler) as url:
        yield url, handler


def test_the_table_of_those_who_used_insightface_rest(
    example: Run,
    client: Client,
    gallery: str,
    tmp_path: Path,
    web: tuple[str, type[Answering]],
    portrait: bytes,
    portrait_again: bytes,
) -> None:
    url, server = web
    server.paths["/photos/2.jpg"] = portrait_again
    images = written(tmp_path / "images" / "alice", one_jpg=portrait).parent
    table = tmp_path / "people.csv"
    table.write_text(f"person,image\nAlice A.,alice/one.jpg\nAlice A.,{url}/photos/2.jpg\nBob,none.jpg\n")
    run = example("migrate_insightface_rest.py", gallery, table, "--images", images)
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"{gallery}: 2 persons, 2 photos enrolled, 0 already there, 1 rejected\n"
    assert "none.jpg cannot be read" in run.stderr
    assert enrolled(client, gallery) == {"Alice A.": 2, "Bob": 0}
    assert client.search(gallery, portrait).probes[0].identified
    again = example("migrate_insightface_rest.py", gallery, table, "--images", images)
    assert "2 already there" in again.stdout
    assert server.asked == ["/photos/2.jpg"]
    table.write_text("name,file\nAlice,alice/one.jpg\n")
    wrong = example("migrate_insightface_rest.py", gallery, table)
    assert (wrong.returncode, "has no column 'image'" in wrong.stderr) == (2, True)


def test_a_face_collection_of_compreface(
    example: Run,
    client: Client,
    gallery: str,
    tmp_path: Path,
    web: tuple[str, type[Answering]],
    portrait: bytes,
    portrait_again: bytes,
    group_photo: bytes,
    scenery: bytes,
) -> None:
    url, server = web
    faces = "/api/v1/recognition/faces"
    kept = {"id-1": ("Zoë / B", portrait), "id-2": ("Zoë / B", portrait_again), "id-3": ("six", group_photo)}
    kept |= {"id-4": ("lost", b""), "id-5": ("..", scenery)}
    for page, ids in enumerate((["id-1", "id-3"], ["id-2", "id-4", "id-5"])):
        told = [{"image_id": id, "subject": kept[id][0]} for id in ids]
        answer = {"faces": told, "page_number": page, "page_size": 2, "total_pages": 2, "total_elements": 5}
        server.paths[f"{faces}?page={page}"] = json.dumps(answer).encode()
    for id, (_, content) in kept.items():
        server.paths[f"{faces}/{id}/img"] = content
    arguments = ("migrate_compreface.py", gallery, "--from", url, "--saved", tmp_path / "saved")
    refused = example(*arguments, COMPREFACE_API_KEY="wrong")
    assert (refused.returncode, "404" in refused.stderr) == (2, True)
    run = example(*arguments, COMPREFACE_API_KEY="peer-key")
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"{gallery}: 3 persons, 2 photos enrolled, 0 already there, 2 rejected\n"
    assert "lost: CompreFace has not kept the image id-4" in run.stderr
    assert "multiple_faces" in run.stderr
    assert enrolled(client, gallery) == {"Zoë / B": 2, "six": 0, "..": 0}
    assert [path.name for path in tmp_path.rglob("*id-5*")] == ["id-5.jpg"]
    assert (tmp_path / "saved" / "dots" / "id-5.jpg").is_file(), "not beside the folder"
    server.asked.clear()
    again = example(*arguments, "--faces", "largest", COMPREFACE_API_KEY="peer-key")
    assert "1 photos enrolled, 2 already there, 1 rejected" in again.stdout
    assert [path for path in server.asked if "/img" in path] == [f"{faces}/id-4/img"]
    assert person_id_of("Zoë / B") in {person.id for person in client.persons(gallery)}
    # Images that somebody has saved before.
    folder = written(tmp_path / "images" / "Zoë", one_jpg=portrait).parent
    saved = example("migrate_compreface.py", f"{gallery}-2", "--folder", folder)
    assert saved.returncode == 0, saved.stderr
    assert enrolled(client, f"{gallery}-2") == {"Zoë": 1}
