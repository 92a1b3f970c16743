"""The command line as a user types it: real processes, real exit codes."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image, ImageOps

LIKENESS = [sys.executable, "-m", "service.cli.main"]


def likeness(
    *arguments: str | Path, data_dir: Path | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    command = [*LIKENESS, *map(str, arguments)]
    if data_dir is not None:
        command += ["--data-dir", str(data_dir)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LIKENESS_")}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=clean, cwd=cwd, check=False)


@pytest.fixture(scope="module")
def photos(astronaut: bytes, group_photo: bytes, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("photos")
    woman = Image.open(io.BytesIO(astronaut)).convert("RGB")
    group = Image.open(io.BytesIO(group_photo))
    made = {
        "woman.jpg": woman,
        "woman_again.png": ImageOps.mirror(woman).resize((300, 300)),
        "man.jpg": group.crop((420, 200, 620, 440)),
        "group.jpg": group,
        "nobody.png": Image.new("RGB", (200, 200), (90, 120, 60)),
    }
    for name, image in made.items():
        image.save(folder / name)
    (folder / "text.jpg").write_text("no photo")
    return {name: folder / name for name in (*made, "text.jpg")}


def test_verify_says_match_with_its_exit_code(photos: dict[str, Path], data_dir: Path) -> None:
    same = likeness("verify", photos["woman.jpg"], photos["woman_again.png"], data_dir=data_dir)
    assert same.returncode == 0, same.stderr
    assert same.stdout.startswith("the same person: similarity 0.")
    other = likeness("verify", photos["woman.jpg"], photos["man.jpg"], data_dir=data_dir)
    assert other.returncode == 1, other.stderr
    assert other.stdout.startswith("not the same person")


def test_verify_prints_one_json_object(photos: dict[str, Path], data_dir: Path) -> None:
    run = likeness(
        "verify", photos["woman.jpg"], photos["woman_again.png"], "--json", "--fmr", "1e-5", data_dir=data_dir
    )
    answer = json.loads(run.stdout)
    assert answer["match"] is True
    assert answer["operating_point"]["fmr"] == 1e-5
    assert answer["faces_found"] == [1, 1]


@pytest.mark.parametrize(
    ("a", "b", "code", "message"),
    [
        ("woman.jpg", "group.jpg", "multiple_faces", "group.jpg shows 6 faces"),
        ("nobody.png", "woman.jpg", "face_not_found", "No face was found in"),
        ("woman.jpg", "text.jpg", "unsupported_media_type", "not a readable JPEG"),
    ],
)
def test_unusable_photos_exit_with_3(
    photos: dict[str, Path], data_dir: Path, a: str, b: str, code: str, message: str
) -> None:
    run = likeness("verify", photos[a], photos[b], "--json", data_dir=data_dir)
    assert run.returncode == 3
    assert json.loads(run.stdout)["error"]["code"] == code
    assert message in run.stderr
    assert "Traceback" not in run.stderr


def test_wrong_use_exits_with_2(photos: dict[str, Path], data_dir: Path) -> None:
    woman = photos["woman.jpg"]
    assert likeness("verify", woman).returncode == 2
    assert likeness("nonsense").returncode == 2
    assert likeness("verify", woman, woman, "--fmr", "1e-4", "--threshold", "0.3").returncode == 2
    unsupported = likeness("verify", woman, woman, "--fmr", "1e-12", data_dir=data_dir)
    assert (unsupported.returncode, "1.99526e-07 to 0.1" in unsupported.stderr) == (2, True)
    assert likeness("detect", woman, "--draw", woman.with_name("out.xyz"), data_dir=data_dir).returncode == 2


def test_a_missing_bundle_exits_with_4_and_says_how_to_get_it(photos: dict[str, Path], tmp_path: Path) -> None:
    run = likeness("verify", photos["woman.jpg"], photos["woman.jpg"], data_dir=tmp_path)
    assert run.returncode == 4
    assert "likeness pull open" in run.stderr
    unknown = likeness("pull", "nothing", data_dir=tmp_path)
    assert (unknown.returncode, "known: antelopev2, auraface, " in unknown.stderr) == (4, True)


def test_detect_draws_what_it_found(photos: dict[str, Path], data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "drawn.png"
    run = likeness("detect", photos["group.jpg"], "--draw", out, "--json", data_dir=data_dir)
    faces = json.loads(run.stdout)["faces"]
    assert len(faces) == 6
    before = np.asarray(Image.open(photos["group.jpg"]), np.int16)
    after = np.asarray(Image.open(out), np.int16)
    assert after.shape == before.shape
    changed = np.abs(after - before).max(axis=2) > 40
    for face in faces:
        box = face["box"]
        middle = round(box["y"] + box["height"] / 2)
        assert changed[middle, round(box["x"]) - 3 : round(box["x"]) + 4].any()
        assert changed[round(face["landmarks"][2][1]), round(face["landmarks"][2][0])]
    assert changed.mean() < 0.05


def test_settings_come_from_flags_then_environment_then_file(
    photos: dict[str, Path], data_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "likeness.toml").write_text(f'data_dir = "{data_dir.resolve()}"\nbundle = "from-the-file"\n')
    woman = photos["woman.jpg"]
    from_file = likeness("detect", woman, cwd=tmp_path)
    assert (from_file.returncode, "'from-the-file'" in from_file.stderr) == (4, True)
    assert likeness("detect", woman, "--bundle", "open", cwd=tmp_path).returncode == 0
    environment = {**os.environ, "LIKENESS_BUNDLE": "from-the-environment"}
    environment.pop("LIKENESS_DATA_DIR", None)
    run = subprocess.run(
        [*LIKENESS, "detect", str(woman)], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert "'from-the-environment'" in run.stderr
    (tmp_path / "likeness.toml").write_text("thread = 3\n")
    assert "thread" in likeness("detect", woman, cwd=tmp_path).stderr


def test_a_served_process_verifies_and_stops_on_a_signal(
    served: Callable[..., Any], photos: dict[str, Path], data_dir: Path, tmp_path: Path
) -> None:
    with served(data_dir, tmp_path) as server:
        files = {"image_a": photos["woman.jpg"].read_bytes(), "image_b": photos["woman_again.png"].read_bytes()}
        answer = httpx2.post(f"{server.url}/v1/verify", files=files, timeout=30)
        assert answer.status_code == 200
        assert answer.json()["match"] is True
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=20) == 0
        # Closed, not only left: SQLite removes its log with the last connection.
        assert sorted(path.name for path in (tmp_path / "gallery").iterdir()) == ["gallery.db", "lock", "reserve"]
        assert "weights under MIT AND Apache-2.0" in server.log
        assert "Traceback" not in server.log
