"""``likeness enrol`` against the real server: each photo of a folder once, however often it is interrupted."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image, ImageEnhance, ImageOps

from likeness.folders import digest_of, person_id_of
from service.cli.main import main

LIKENESS = [sys.executable, "-m", "service.cli.main"]
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("LIKENESS_")}


@pytest.fixture(scope="module")
def server(served: Callable[..., Any], data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with served(data_dir, tmp_path_factory.mktemp("served")) as server:
        yield server


@pytest.fixture(scope="module")
def woman(astronaut: bytes) -> Image.Image:
    return Image.open(io.BytesIO(astronaut)).convert("RGB")


@pytest.fixture
def folder(woman: Image.Image, group_photo: bytes, tmp_path: Path) -> Path:
    """Ann with two photos, "Bo B." with one of one, of six, of nobody, a cut-off one, a text; and what is no photo."""
    group = Image.open(io.BytesIO(group_photo))
    root = tmp_path / "photos"
    for name in ("ann", "Bo B.", "empty", ".hidden"):
        (root / name).mkdir(parents=True)
    woman.save(root / "ann" / "1.JPG")
    ImageOps.mirror(woman).save(root / "ann" / "2.png")
    group.crop((420, 200, 620, 440)).save(root / "Bo B." / "a.webp", quality=90)
    group.save(root / "Bo B." / "b six.jpg")
    Image.new("RGB", (200, 200), (90, 120, 60)).save(root / "Bo B." / "c.bmp")
    (root / "Bo B." / "d.jpeg").write_bytes(group_photo[: len(group_photo) // 2])
    (root / "Bo B." / "e.jpg").write_text("no photo")
    for other in ("notes.txt", ".1.jpg"):
        (root / "ann" / other).write_text("neither sent nor told")
    woman.save(root / ".hidden" / "1.jpg")
    return root


def likeness(url: str, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [*LIKENESS, *map(str, arguments), "--url", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=CLEAN, cwd=cwd, check=False)


def enrolled(url: str, gallery: str) -> dict[str, list[str]]:
    """The face ids of each person."""
    persons = httpx2.get(f"{url}/v1/galleries/{gallery}/export", params={"limit": 1000}).json()["persons"]
    return {person["person_id"]: [face["face_id"] for face in person["faces"]] for person in persons}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def outcome(run: subprocess.CompletedProcess[str]) -> tuple[int, int, int, int, int]:
    told = json.loads(run.stdout)
    return run.returncode, told["persons"], told["enrolled"], told["already_there"], told["rejected"]


def test_a_folder_is_enrolled_and_what_was_rejected_is_told(server: Any, folder: Path, tmp_path: Path) -> None:
    run = likeness(server.url, "enrol", "folk", folder, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("folk: 2 persons, 3 photos enrolled, 0 already there, 4 rejected")
    bo = person_id_of("Bo B.")
    faces = enrolled(server.url, "folk")
    assert {person: len(ids) for person, ids in faces.items()} == {"ann": 2, bo: 1}
    assert sorted(id.rpartition(":")[0] for id in faces["ann"]) == ["1.JPG", "2.png"]
    assert httpx2.get(f"{server.url}/v1/galleries/folk/persons/{bo}").json()["name"] == "Bo B."
    rows = table(tmp_path / "folk-rejected.csv")
    assert [(row["person_id"], row["file"]) for row in sorted(rows, key=lambda row: row["file"])] == [
        (bo, str(folder / "Bo B." / name)) for name in ("b six.jpg", "c.bmp", "d.jpeg", "e.jpg")
    ]
    by_file = {Path(row["file"]).name: row for row in rows}
    codes = {name: row["code"] for name, row in by_file.items()}
    assert codes == {
        "b six.jpg": "multiple_faces",
        "c.bmp": "face_not_found",
        "d.jpeg": "invalid_image",
        "e.jpg": "unsupported_media_type",
    }
    assert by_file["b six.jpg"]["message"].startswith("b six.jpg shows 6 faces")


def test_a_second_run_sends_only_what_is_not_there(
    server: Any, folder: Path, tmp_path: Path, woman: Image.Image
) -> None:
    arguments = ("enrol", "again", folder, "--json", "--rejected", tmp_path / "no.csv")
    assert outcome(likeness(server.url, *arguments, cwd=tmp_path)) == (0, 2, 3, 0, 4)
    path = f"{server.url}/v1/galleries/again/persons/ann"
    assert httpx2.patch(path, json={"name": "Ann", "metadata": {"floor": 2}}).status_code == 200
    before = enrolled(server.url, "again")
    # Renamed, copied within the person, replaced under its old name, mended; one given to the other person too.
    bo = folder / "Bo B."
    (folder / "ann" / "1.JPG").rename(folder / "ann" / "renamed.jpg")
    shutil.copy(folder / "ann" / "2.png", folder / "ann" / "copy.png")
    ImageEnhance.Brightness(woman).enhance(0.8).save(folder / "ann" / "2.png")
    shutil.copy(folder / "ann" / "renamed.jpg", bo / "e.jpg")
    assert outcome(likeness(server.url, *arguments, cwd=tmp_path)) == (0, 2, 2, 3, 3)
    after = enrolled(server.url, "again")
    assert {person: len(ids) for person, ids in after.items()} == {"ann": 3, person_id_of("Bo B."): 2}
    assert all(set(ids) < set(after[person]) for person, ids in before.items())
    assert len(table(tmp_path / "no.csv")) == 3
    # Rejected ones are tried again, here under another policy; what was deleted is enrolled again.
    assert httpx2.delete(f"{path}/faces/{before['ann'][0]}").status_code == 204
    run = likeness(server.url, *arguments, "--faces", "largest", cwd=tmp_path)
    assert outcome(run) == (0, 2, 2, 4, 2)
    assert digest_of(before["ann"][0]) in {digest_of(id) for id in enrolled(server.url, "again")["ann"]}
    shown = httpx2.get(path).json()
    assert (shown["name"], shown["metadata"]) == ("Ann", {"floor": 2})


def test_persons_of_lfw_are_found_by_a_photo_that_was_kept_back(server: Any, lfw: Path, tmp_path: Path) -> None:
    kept = {}
    for person in sorted(path for path in (lfw / "images").iterdir() if len(list(path.iterdir())) == 4)[:10]:
        shutil.copytree(person, tmp_path / "lfw" / person.name)
        kept[person.name] = (tmp_path / "lfw" / person.name / f"{person.name}_0004.jpg").rename(
            tmp_path / f"{person.name}.jpg"
        )
    run = likeness(server.url, "enrol", "lfw", tmp_path / "lfw", "--faces", "largest", "--json", cwd=tmp_path)
    assert outcome(run) == (0, 10, 30, 0, 0)
    found = {}
    for name, photo in kept.items():
        files = {"image": photo.read_bytes()}
        answer = httpx2.post(f"{server.url}/v1/galleries/lfw/search", files=files, data={"faces": "largest"}).json()
        found[name] = answer["probes"][0]["candidates"][0]["person_id"]
    assert found == {name: name for name in kept}


@pytest.fixture
def many(group_photo: bytes, tmp_path: Path) -> tuple[Path, int]:
    """Three persons with 8 different photos each: enough to be stopped in the middle."""
    group = Image.open(io.BytesIO(group_photo)).crop((420, 200, 620, 440)).resize((400, 480))
    for person in ("a", "b", "c"):
        (tmp_path / "many" / person).mkdir(parents=True)
        for number in range(8):
            photo = ImageEnhance.Brightness(group).enhance(0.8 + 0.05 * number)
            photo.save(tmp_path / "many" / person / f"{number}.jpg", quality=80)
    return tmp_path / "many", 24


def started(url: str, gallery: str, folder: Path, cwd: Path) -> "subprocess.Popen[str]":
    """An enrolment that has enrolled a few photos and is not done."""
    command = [*LIKENESS, "enrol", gallery, str(folder), "--url", url, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=CLEAN, cwd=cwd)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        answer = httpx2.get(f"{url}/v1/galleries/{gallery}")
        if answer.status_code == 200 and answer.json()["faces"] >= 3:
            return process
        time.sleep(0.01)
    process.kill()
    pytest.fail(f"nothing was enrolled: {process.communicate()}")


def test_an_interrupted_run_is_taken_up_where_it_stopped(server: Any, many: tuple[Path, int], tmp_path: Path) -> None:
    folder, total = many
    process = started(server.url, "interrupted", folder, tmp_path)
    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=30)
    assert process.returncode == 130, log
    assert "Traceback" not in log
    done = sum(map(len, enrolled(server.url, "interrupted").values()))
    assert 3 <= done < total
    run = likeness(server.url, "enrol", "interrupted", folder, "--json", cwd=tmp_path)
    assert outcome(run) == (0, 3, total - done, done, 0)
    assert {person: len(ids) for person, ids in enrolled(server.url, "interrupted").items()} == dict.fromkeys("abc", 8)


def test_a_run_outlives_a_server_that_is_killed(
    served: Callable[..., Any], data_dir: Path, many: tuple[Path, int], tmp_path: Path
) -> None:
    folder, total = many
    with served(data_dir, tmp_path / "served") as server:
        url = server.url
        process = started(url, "killed", folder, tmp_path)
        server.process.kill()
        server.process.wait()
    # On the same port, where the command goes on asking.
    with served(data_dir, tmp_path / "served", "--port", url.rpartition(":")[2]):
        told, log = process.communicate(timeout=100)
        assert process.returncode == 0, log
        assert {person: len(ids) for person, ids in enrolled(url, "killed").items()} == dict.fromkeys("abc", 8)
    told = json.loads(told)
    # A photo whose answer was lost is told as one that is there already.
    assert told["enrolled"] + told["already_there"] == total
    assert told["already_there"] <= 4


def test_two_runs_at_once_enrol_each_photo_once(server: Any, many: tuple[Path, int], tmp_path: Path) -> None:
    folder, total = many
    runs: list[tuple[int, int, int, int, int]] = []

    def one() -> None:
        runs.append(outcome(likeness(server.url, "enrol", "both", folder, "--json", cwd=tmp_path)))

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(run[0], run[4]) for run in runs] == [(0, 0), (0, 0)]
    assert sum(run[2] for run in runs) == total
    assert {person: len(ids) for person, ids in enrolled(server.url, "both").items()} == dict.fromkeys("abc", 8)


def test_what_cannot_be_enrolled_ends_with_its_exit_code(
    server: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(folder / "ann")
    (folder / "Bo B." / "a.webp").unlink()
    assert outcome(likeness(server.url, "enrol", "none", folder, "--json", cwd=tmp_path)) == (3, 1, 0, 0, 4)
    table = tmp_path / "table.csv"
    for arguments, says in (
        (("none", folder / "empty"), "has no photos"),
        (("none", tmp_path / "missing"), "No such file or directory"),
        (("no ne", folder), "is not a gallery id"),
        (("none/persons", folder), "is not a gallery id"),
        (("none", folder, "--workers", "0"), "--workers must be 1 to 64"),
        (("none", folder, "--rejected", tmp_path), "Is a directory"),
    ):
        assert main(["enrol", "--rejected", str(table), *map(str, arguments), "--url", server.url]) == 2
        assert says in capsys.readouterr().err
    assert main(["enrol", "none", str(folder), "--rejected", str(table), "--url", "http://127.0.0.1:1"]) == 4
    assert "likeness serve" in capsys.readouterr().err
    assert not table.exists()


def test_no_two_folders_have_one_person_id() -> None:
    plain = "Ann-1_2.x:y"
    assert person_id_of(plain) == plain
    names = ["a b", "a_b", "a  b", "á b", "日本", "日", "x" * 129, "x" * 128, "a/b", "\udce4"]
    made = [person_id_of(name) for name in names]
    # A folder that is called like an id that was made.
    names += made
    ids = [person_id_of(name) for name in names]
    assert len(set(ids)) == len(set(names))
    for id in ids:
        assert 1 <= len(id) <= 128
        assert set(id) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-")
