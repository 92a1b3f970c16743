"""``likeness search``, ``export-gallery`` and ``import-gallery`` against real servers."""

import base64
import gzip
import io
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image, ImageOps

from service.api.bulk_schemas import BulkPersonBody
from service.cli import galleries
from service.cli.gallery_file import Header, PersonLine, Writer
from service.cli.main import main
from service.engine import Engine

LIKENESS = [sys.executable, "-m", "service.cli.main"]
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("LIKENESS_")}


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
    return {name: folder / name for name in made}


@pytest.fixture(scope="module")
def url(
    served: Callable[..., Any],
    data_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
    photos: dict[str, Path],
    engine: Engine,
) -> Iterator[str]:
    """A server with a gallery "staff" of 301 persons: a woman with two photos, and templates made by vector."""
    with served(data_dir, tmp_path_factory.mktemp("served")) as server:
        staff = f"{server.url}/v1/galleries/staff"
        httpx2.put(staff, json={"name": "Staff", "description": "Größe und Maß"})
        about = {"name": "Ann Ö.", "metadata": {"floor": 3, "badge": True}, "expires_at": "2031-01-01T00:00:00Z"}
        httpx2.put(f"{staff}/persons/ann", json=about)
        files = [("images", photos[name].read_bytes()) for name in ("woman.jpg", "woman_again.png")]
        assert httpx2.post(f"{staff}/persons/ann/faces", files=files, timeout=30).status_code == 201
        persons = [person(f"p{i:03}", units(2, i)) for i in range(300)]
        body = {"embedding_contract": engine.card.embedding_contract, "persons": persons}
        assert httpx2.post(f"{staff}/import", json=body, timeout=30).status_code == 200
        yield server.url


@pytest.fixture(scope="module")
def exported(url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "staff.ndjson"
    assert main(["export-gallery", "staff", str(path), "--url", url]) == 0
    return path


def units(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    vectors = np.random.default_rng(seed).normal(size=(count, 128)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def person(id: str, vectors: np.ndarray[Any, np.dtype[np.float32]]) -> dict[str, Any]:
    sent = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
    return {"person_id": id, "faces": [{"face_id": f"{id}.{n}", "embedding": text} for n, text in enumerate(sent)]}


def written(path: Path, contract: str, *persons: dict[str, Any]) -> Path:
    with path.open("wb") as stream:
        about = {"gallery": "g", "name": None, "description": None, "created_at": "2031-01-01T00:00:00Z"}
        writer = Writer(stream, Header(embedding_contract=contract, embedding_dimension=128, **about))
        for one in persons:
            writer.person(one)
        writer.finish()
    return path


def likeness(*arguments: str | Path, stdin: bytes | None = None) -> "subprocess.CompletedProcess[bytes]":
    command = [*LIKENESS, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=120, env=CLEAN, check=False, input=stdin)


def answers(url: str, gallery: str, photos: dict[str, Path], contract: str) -> list[Any]:
    """What searches of the gallery answer: photos, everyone in a photo, and vectors."""
    place = f"{url}/v1/galleries/{gallery}/search"
    found = [
        httpx2.post(place, files={"image": photos[name].read_bytes()}, data={"faces": "all", "top_k": "20"}, timeout=30)
        for name in ("woman.jpg", "woman_again.png", "group.jpg")
    ]
    for vector in units(20, 1):
        body = {"embedding": vector.tolist(), "embedding_contract": contract, "top_k": 20}
        found.append(httpx2.post(place, json=body))
    assert {answer.status_code for answer in found} == {200}
    return [{key: value for key, value in answer.json().items() if key != "gallery"} for answer in found]


def test_a_moved_gallery_answers_the_same_in_another_gallery_and_on_another_server(
    url: str,
    exported: Path,
    photos: dict[str, Path],
    engine: Engine,
    served: Callable[..., Any],
    data_dir: Path,
    tmp_path: Path,
) -> None:
    contract = engine.card.embedding_contract
    before = answers(url, "staff", photos, contract)
    assert before[0]["probes"][0]["decision"] == "identified"
    with served(data_dir, tmp_path / "other") as other:
        for place, gallery in ((url, "copy"), (other.url, "staff")):
            run = likeness("import-gallery", gallery, exported, "--url", place, "--json")
            assert run.returncode == 0, run.stderr
            told = json.loads(run.stdout)
            assert (told["persons"], told["faces"]) == (
                {"created": 301, "updated": 0},
                {"created": 602, "present": 0},
            )
            assert answers(place, gallery, photos, contract) == before
            shown = httpx2.get(f"{place}/v1/galleries/{gallery}").json()
            assert (shown["name"], shown["description"]) == ("Staff", "Größe und Maß")
            ann, moved = (
                httpx2.get(f"{at}/v1/galleries/{name}/persons/ann").json()
                for at, name in ((url, "staff"), (place, gallery))
            )
            assert {**moved, "updated_at": None} == {**ann, "updated_at": None}
        back = tmp_path / "back.ndjson.gz"
        assert main(["export-gallery", "staff", str(back), "--url", other.url]) == 0
    assert gzip.decompress(back.read_bytes()).splitlines()[1:-1] == exported.read_bytes().splitlines()[1:-1]
    again = likeness("import-gallery", "copy", back, "--url", url, "--json")
    assert json.loads(again.stdout)["faces"] == {"created": 0, "present": 602}


def test_a_file_says_what_it_holds_and_only_its_owner_reads_it(
    url: str, exported: Path, engine: Engine, tmp_path: Path
) -> None:
    assert stat.S_IMODE(exported.stat().st_mode) == 0o600
    header, *persons, trailer = map(json.loads, exported.read_text().splitlines())
    assert header == {
        "format": "likeness-gallery",
        "version": 1,
        "gallery": "staff",
        "name": "Staff",
        "description": "Größe und Maß",
        "embedding_contract": engine.card.embedding_contract,
        "embedding_dimension": 128,
        "created_at": httpx2.get(f"{url}/v1/galleries/staff").json()["created_at"],
    }
    assert [one["person_id"] for one in persons] == ["ann", *(f"p{i:03}" for i in range(300))]
    assert (trailer["persons"], trailer["faces"]) == (301, 602)
    # Written over, and to standard output, where nothing else is written.
    older = tmp_path / "staff.ndjson"
    older.write_text("older")
    assert main(["export-gallery", "staff", str(older), "--url", url]) == 0
    assert older.read_bytes() == exported.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["staff.ndjson"]
    piped = likeness("export-gallery", "staff", "-", "--url", url, "--json")
    assert (piped.returncode, piped.stdout) == (0, exported.read_bytes())


def test_a_file_of_another_contract_is_refused(
    url: str, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "other.ndjson", "f" * 64, person("ann", units(1, 1)))
    assert main(["import-gallery", "foreign", str(path), "--url", url, "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "model_mismatch"
    assert httpx2.get(f"{url}/v1/galleries/foreign").status_code == 404
    piped = likeness("import-gallery", "foreign", "-", "--url", url, stdin=path.read_bytes())
    assert piped.returncode == 3
    assert httpx2.get(f"{url}/v1/galleries/foreign").status_code == 404
    assert engine.card.embedding_contract[:16].encode() in piped.stderr


def _flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing in it": (lambda _: b"", "line 1 is not a header"),
    "only a header": (lambda c: c[: c.index(b"\n") + 1], "line 2 is not a trailer"),
    "cut at the end of a line": (lambda c: c[: c.rindex(b'{"persons"')], "line 302 is not a trailer"),
    "cut in the last line": (lambda c: c[:-9], "line 303 is not a trailer"),
    "cut in a person": (lambda c: c[: len(c) // 2], "is not a trailer"),
    "a person torn": (lambda c: c.replace(b'"p007"', b'"p007\n', 1), "line 10 is not a person"),
    "a person missing": (lambda c: c.replace(c.splitlines(keepends=True)[5], b"", 1), "was changed or damaged"),
    "a bit of a template": (lambda c: _flipped(c, c.index(b'"embedding":"') + 300), "was changed or damaged"),
    "a bit of the gallery's name": (lambda c: _flipped(c, c.index(b"Staff")), "was changed or damaged"),
    "a bit of the digest": (lambda c: _flipped(c, c.rindex(b'"sha256":"') + 12), "was changed or damaged"),
    "something after the end": (lambda c: c + b"{}\n", "line 303 is not a person"),
    "not such a file": (lambda _: b"PK\x03\x04", "line 1 is not a header"),
    "a later version": (lambda c: c.replace(b'"version":1', b'"version":2', 1), "line 1 is not a header"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_damaged_file_is_refused_before_anything_is_sent(
    url: str, exported: Path, damage: str, ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, says = DAMAGES[damage]
    content = exported.read_bytes()
    damaged = change(content)
    assert damaged != content
    path = tmp_path / f"damaged.ndjson{ending}"
    path.write_bytes(gzip.compress(damaged, 1) if ending else damaged)
    assert main(["import-gallery", "damaged", str(path), "--url", url, "--json"]) == 3
    told = capsys.readouterr()
    assert says in told.err
    assert json.loads(told.out)["error"]["code"] == "invalid_request"
    assert httpx2.get(f"{url}/v1/galleries/damaged").status_code == 404


@pytest.mark.parametrize("cut", [0.5, 0.999])
def test_a_compressed_file_that_is_cut_off_is_refused(
    url: str, exported: Path, cut: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = gzip.compress(exported.read_bytes(), 1)
    path = tmp_path / "cut.ndjson.gz"
    path.write_bytes(whole[: int(cut * len(whole))])
    assert main(["import-gallery", "cut", str(path), "--url", url]) == 3
    assert "cut off" in capsys.readouterr().err
    assert httpx2.get(f"{url}/v1/galleries/cut").status_code == 404


def test_standard_input_is_checked_as_it_comes(url: str, exported: Path) -> None:
    content = exported.read_bytes()
    run = likeness("import-gallery", "piped", "-", "--url", url, stdin=content)
    assert run.returncode == 0, run.stderr
    assert httpx2.get(f"{url}/v1/galleries/piped").json()["faces"] == 602
    cut = likeness("import-gallery", "piped", "-", "--url", url, stdin=content[:-9])
    assert (cut.returncode, b"-: line 303 is not a trailer" in cut.stderr) == (3, True)


def test_an_interrupted_import_is_repeated(url: str, engine: Engine, tmp_path: Path) -> None:
    persons = [person(f"q{i:04}", units(4, i)) for i in range(3000)]
    path = written(tmp_path / "large.ndjson", engine.card.embedding_contract, *persons)
    command = [*LIKENESS, "import-gallery", "large", str(path), "--url", url]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=CLEAN)
    place, faces = f"{url}/v1/galleries/large", 0
    deadline = time.monotonic() + 60
    while faces < 1000 and time.monotonic() < deadline:
        faces = httpx2.get(place).json().get("faces", 0)
    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=30)
    assert process.returncode == 130, log
    done = httpx2.get(place).json()["faces"]
    assert 1000 <= done < 12_000
    run = likeness("import-gallery", "large", path, "--url", url, "--json")
    assert json.loads(run.stdout)["faces"] == {"created": 12_000 - done, "present": done}
    shown = httpx2.get(place).json()
    assert (shown["persons"], shown["faces"]) == (3000, 12_000)


def test_a_person_with_more_faces_than_a_request_takes(url: str, engine: Engine, tmp_path: Path) -> None:
    vectors = units(2300, 77)
    everyone = [person("before", units(3, 78)), person("many", vectors), person("after", units(3, 79))]
    path = written(tmp_path / "many.ndjson", engine.card.embedding_contract, *everyone)
    run = likeness("import-gallery", "many", path, "--url", url, "--json")
    told = json.loads(run.stdout)
    assert (told["persons"], told["faces"]) == ({"created": 3, "updated": 0}, {"created": 2306, "present": 0})
    back = tmp_path / "back.ndjson"
    assert main(["export-gallery", "many", str(back), "--url", url]) == 0
    found = {one["person_id"]: one for one in map(json.loads, back.read_text().splitlines()[1:-1])}
    for one in everyone:
        moved = [(face["face_id"], face["embedding"]) for face in found[one["person_id"]]["faces"]]
        assert moved == [(face["face_id"], face["embedding"]) for face in one["faces"]]


@pytest.mark.parametrize("most_bytes", [700, 5000, 100_000])
def test_batches_are_bounded_and_complete(most_bytes: int) -> None:
    rng = np.random.default_rng(5)
    persons = [person(f"p{i}", units(int(n), i)) for i, n in enumerate(rng.integers(0, 40, 60))]
    lines = [
        PersonLine(number, json.dumps(one).encode(), BulkPersonBody.model_validate(one))
        for number, one in enumerate(persons, 2)
    ]
    sent: dict[str, list[str]] = {}
    for batch in galleries.batches(lines, most_bytes):
        there = [json.loads(content) for content in batch.persons]
        ids = [one["person_id"] for one in there]
        assert len(set(ids)) == len(ids)
        assert (batch.first, batch.last) == (int(ids[0][1:]) + 2, int(ids[-1][1:]) + 2)
        assert batch.faces == sum(len(one["faces"]) for one in there)
        # One face alone may be too large.
        assert sum(map(len, batch.persons)) <= most_bytes or batch.faces <= 1
        for one in there:
            sent.setdefault(one["person_id"], []).extend(face["face_id"] for face in one["faces"])
    assert sent == {one["person_id"]: [face["face_id"] for face in one["faces"]] for one in persons}
    assert max(len(batch.persons) for batch in galleries.batches(lines * 100, 10**9)) <= galleries.MOST_PERSONS


def test_a_conflict_names_the_lines(
    url: str, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contract = engine.card.embedding_contract
    one, other = (written(tmp_path / f"{seed}.ndjson", contract, person("ann", units(1, seed))) for seed in (1, 2))
    assert main(["import-gallery", "conflict", str(one), "--url", url]) == 0
    assert main(["import-gallery", "conflict", str(other), "--url", url, "--json"]) == 3
    told = capsys.readouterr()
    assert "Lines 2 to 2 of" in told.err
    error = json.loads(told.out.splitlines()[-1])["error"]
    assert (error["code"], error["details"]["face"]) == ("conflict", "ann.0")


def test_what_cannot_be_written_leaves_nothing(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for gallery, path, code, says in (
        ("missing", tmp_path / "a", 3, "no gallery 'missing'"),
        ("a b", tmp_path / "a", 2, "is not a gallery id"),
        ("staff", tmp_path / "none" / "a", 2, "No such file or directory"),
        ("staff", Path("/dev/null"), 2, "is no file"),
        ("staff", tmp_path, 2, "is no file"),
    ):
        assert main(["export-gallery", gallery, str(path), "--url", url]) == code
        assert says in capsys.readouterr().err
    assert main(["import-gallery", "staff", str(tmp_path / "a"), "--url", url]) == 2
    assert list(tmp_path.iterdir()) == []


def test_search_says_who_it_is_with_its_exit_code(url: str, photos: dict[str, Path]) -> None:
    known = likeness("search", "staff", photos["woman_again.png"], "--url", url, "--top-k", "2")
    assert (known.returncode, known.stderr) == (0, b"")
    first, face, best, second = known.stdout.decode().splitlines()
    assert first.startswith("301 persons searched, threshold 0.")
    assert face.startswith("face ")
    assert face.endswith(": identified")
    assert best.startswith("  1. 0.99")
    assert "  ann (Ann Ö.), face f_" in best
    assert second.startswith("  2. ")
    stranger = likeness("search", "staff", photos["man.jpg"], "--url", url, "--json")
    answer = json.loads(stranger.stdout)
    assert (stranger.returncode, answer["probes"][0]["decision"]) == (1, "unknown")


def test_search_takes_an_operating_point_and_a_policy(
    url: str, photos: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    def search(photo: str, *arguments: str) -> tuple[int, Any]:
        code = main(["search", "staff", str(photos[photo]), "--url", url, "--json", *arguments])
        out = capsys.readouterr().out
        return code, json.loads(out)

    code, answer = search("man.jpg", "--threshold", "-1")
    assert (code, answer["operating_point"]["threshold"]) == (0, -1)
    code, answer = search("woman.jpg", "--fpir", "0.02")
    assert (code, answer["operating_point"]["fpir"]) == (0, pytest.approx(0.02))
    code, answer = search("woman.jpg", "--fmr", "0.0001")
    assert (code, answer["operating_point"]["fmr"]) == (0, pytest.approx(0.0001))
    code, answer = search("group.jpg", "--faces", "all")
    assert (code, len(answer["probes"])) == (1, 6)
    code, answer = search("nobody.png", "--faces", "all")
    assert (code, answer["probes"]) == (1, [])
    assert search("group.jpg")[0] == 3
    assert search("woman.jpg", "--top-k", "0")[0] == 2


def test_the_doctor_writes_a_page_with_its_figure(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "staff", "--url", url, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "probable duplicates" in printed
    assert "FPIR 0.01 asked" in printed
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["gallery"], report["persons"]) == ("staff", 301)
    page = (tmp_path / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert all(person in page for pair in report["duplicates"] for person in pair["person_ids"])
    assert (tmp_path / "scores.png").read_bytes().startswith(b"\x89PNG")
    assert main(["doctor", "nobody", "--url", url]) == 3
