"""The LFW protocol: pairs files, the central face, and what becomes of photos that give no embedding."""

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from service.errors import FaceNotFound, FaceTooSmall, InvalidRequest
from service.evaluation.lfw import EmbeddedFace, EmbeddedPhoto, EmbedPhoto, Pair, central_face, evaluate_lfw, read_pairs

LFW = Path(__file__).resolve().parents[4] / "shared" / "data" / "lfw"
BLANK, GARBAGE = "P_03/P_03_0002.jpg", "P_07/P_07_0001.jpg"

VIEW_2 = "2\t1\nAnn_Lee\t1\t12\nBob\t3\tAnn_Lee\t4\nCy\t1\t2\nBob\t1\tCy\t2\n"
VIEW_1 = "2\nAnn\t1\t2\nAnn\t2\t3\nAnn\t1\tBob\t1\nBob\t2\tCy\t1\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pairs.txt"
    path.write_text(text)
    return path


def face_at(x1: float, y1: float, x2: float, y2: float) -> EmbeddedFace:
    return EmbeddedFace((x1, y1, x2, y2), np.array([1], np.float32))


def test_view_2_has_folds_of_matched_then_mismatched_pairs(tmp_path: Path) -> None:
    assert read_pairs(write(tmp_path, VIEW_2)) == [
        Pair("Ann_Lee/Ann_Lee_0001.jpg", "Ann_Lee/Ann_Lee_0012.jpg", True, 0),
        Pair("Bob/Bob_0003.jpg", "Ann_Lee/Ann_Lee_0004.jpg", False, 0),
        Pair("Cy/Cy_0001.jpg", "Cy/Cy_0002.jpg", True, 1),
        Pair("Bob/Bob_0001.jpg", "Cy/Cy_0002.jpg", False, 1),
    ]


def test_view_1_is_one_fold(tmp_path: Path) -> None:
    pairs = read_pairs(write(tmp_path, VIEW_1))
    assert [pair.genuine for pair in pairs] == [True, True, False, False]
    assert {pair.fold for pair in pairs} == {0}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "line 1: ''"),
        ("ten\t300\n", "line 1: 'ten"),
        ("1\t1\t1\nAnn\t1\t2\nAnn\t1\tBob\t1\n", "line 1"),
        ("0\t300\n", "line 1"),
        ("1\t-1\n", "line 1"),
        ("1\t2\nAnn\t1\t2\nAnn\t1\tBob\t1\n", "line 1: .*announces 4 pairs, but 2 follow"),
        ("1\t1\nAnn\t1\t2\nAnn\t1\tBob\t1\nAnn\t1\tBob\t2\n", "announces 2 pairs, but 3 follow"),
        ("1\t1\nAnn\t1\tBob\t2\nAnn\t1\tBob\t1\n", "line 2: .*is not a matched pair, 'Name i j'"),
        ("1\t1\n\nAnn\t1\t2\nAnn\t1\t2\n", "line 4: .*is not a mismatched pair, 'NameA i NameB j'"),
        ("1\t1\nAnn\t1\tx\nAnn\t1\tBob\t1\n", "line 2: .*does not name photos"),
        ("1\t1\nAnn\t1\t2\nAnn\t1\t../Bob\t1\n", "line 3: .*does not name photos"),
        ("1\t1\n..\t1\t2\nAnn\t1\tBob\t1\n", "line 2: .*does not name photos"),
    ],
)
def test_a_malformed_file_is_refused_with_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InvalidRequest, match=complaint) as caught:
        read_pairs(path)
    assert str(path) in caught.value.message


def test_a_file_that_is_missing_or_binary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"none\.txt cannot be read"):
        read_pairs(tmp_path / "none.txt")
    (tmp_path / "pairs.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_pairs(tmp_path / "pairs.txt")


@pytest.mark.skipif(not LFW.is_dir(), reason=f"LFW is not at {LFW}")
@pytest.mark.parametrize(
    ("name", "pairs", "photos", "folds"),
    [
        ("pairs.txt", 6000, 7701, 10),
        ("pairsDevTest.txt", 1000, 1549, 1),
        ("pairsDevTrain.txt", 2200, 3443, 1),
    ],
)
def test_the_published_files(name: str, pairs: int, photos: int, folds: int) -> None:
    found = read_pairs(LFW / name)
    assert len(found) == pairs
    assert sum(pair.genuine for pair in found) == pairs // 2
    assert len({photo for pair in found for photo in (pair.first, pair.second)}) == photos
    assert np.bincount([pair.fold for pair in found]).tolist() == [pairs // folds] * folds
    assert all((Path(p.first).parent == Path(p.second).parent) == p.genuine for p in found)
    assert (LFW / "images" / found[-1].second).is_file()


def test_the_central_face_is_the_checkers_choice() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        corners = rng.uniform(0, 200, (4, 2))
        boxes = np.hstack([corners, corners + rng.uniform(5, 100, (4, 2))])
        x, y = (boxes[:, :2] + (boxes[:, 2:] - boxes[:, :2]) / 2).T
        size = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
        expected = boxes[np.argmin(np.hypot(x - 125, y - 125) / size)]
        faces = [face_at(*box) for box in boxes.tolist()]
        assert central_face(faces, 250, 250).box == tuple(expected.tolist())


def test_the_centre_is_that_of_the_photo_and_large_faces_are_nearer() -> None:
    left, right = face_at(0, 0, 20, 20), face_at(90, 40, 110, 60)
    assert central_face([left, right], 200, 100) is right
    assert central_face([left, right], 20, 20) is left
    small, large = face_at(40, 45, 50, 55), face_at(45, 40, 67, 62)
    assert central_face([small, large], 100, 100) is large
    assert central_face([face_at(50, 50, 50, 50), small], 100, 100) is small
    with pytest.raises(FaceNotFound):
        central_face([], 100, 100)


def test_every_photo_is_embedded_and_every_pair_compared(lfw_tree: tuple[Path, Path], embed_photo: EmbedPhoto) -> None:
    images, pairs_file = lfw_tree
    result = evaluate_lfw(embed_photo, images, pairs_file, workers=3)
    assert list(result.pairs) == read_pairs(pairs_file)
    assert list(result.photos) == sorted({p for pair in result.pairs for p in (pair.first, pair.second)})
    undetected = {p for p, found in zip(result.photos, result.detected, strict=True) if not found}
    assert undetected == {BLANK, GARBAGE}
    vectors = {
        p: embed_photo((images / p).read_bytes()).faces[1].embedding.astype(np.float64)
        for p in result.photos
        if p not in undetected
    }
    for pair, similarity in zip(result.pairs, result.similarity, strict=True):
        if {pair.first, pair.second} & undetected:
            assert similarity == -np.inf
        else:
            assert similarity == pytest.approx(float(vectors[pair.first] @ vectors[pair.second]), abs=1e-12)
    for row, photo in enumerate(result.photos):
        assert np.array_equal(result.embeddings[row], vectors.get(photo, np.zeros(192)))
    assert result.embeddings.dtype == np.float32
    assert result.pairs_sha256 == hashlib.sha256(pairs_file.read_bytes()).hexdigest()
    assert result.seconds > 0


def test_photos_are_embedded_once_and_few_are_held_at_a_time(
    lfw_tree: tuple[Path, Path], embed_photo: EmbedPhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, pairs_file = lfw_tree
    lock, held, most, seen = threading.Lock(), 0, 0, []
    read_bytes = Path.read_bytes

    def counted_read(path: Path) -> bytes:
        nonlocal held, most
        if path.suffix == ".jpg":
            with lock:
                held, most = held + 1, max(most, held + 1)
                seen.append(path)
        return read_bytes(path)

    def slow(data: bytes, /) -> EmbeddedPhoto:
        nonlocal held
        time.sleep(0.005)
        try:
            return embed_photo(data)
        finally:
            with lock:
                held -= 1

    monkeypatch.setattr(Path, "read_bytes", counted_read)
    result = evaluate_lfw(slow, images, pairs_file, workers=3)
    assert sorted(seen) == [images / photo for photo in result.photos]
    assert 1 < most <= 3


def test_a_face_too_small_and_an_empty_list_are_undetected(
    lfw_tree: tuple[Path, Path], embed_photo: EmbedPhoto
) -> None:
    images, pairs_file = lfw_tree
    empty, small = ((images / name).read_bytes() for name in ("P_00/P_00_0001.jpg", "P_00/P_00_0002.jpg"))

    def picky(data: bytes, /) -> EmbeddedPhoto:
        if data == small:
            raise FaceTooSmall("too small")
        return EmbeddedPhoto(64, 64, []) if data == empty else embed_photo(data)

    result = evaluate_lfw(picky, images, pairs_file, workers=2)
    undetected = {photo for photo, found in zip(result.photos, result.detected, strict=True) if not found}
    assert undetected == {BLANK, GARBAGE, "P_00/P_00_0001.jpg", "P_00/P_00_0002.jpg"}


def test_a_missing_photo_stops_the_evaluation_before_it_begins(lfw_tree: tuple[Path, Path]) -> None:
    images, pairs_file = lfw_tree
    (images / GARBAGE).unlink()

    def never(_data: bytes, /) -> EmbeddedPhoto:
        raise AssertionError("embedded a photo of an incomplete set")

    with pytest.raises(InvalidRequest, match=GARBAGE) as caught:
        evaluate_lfw(never, images, pairs_file, workers=2)
    assert str(images) in caught.value.message


def test_an_error_of_the_recognizer_ends_the_evaluation_early(lfw_tree: tuple[Path, Path]) -> None:
    calls = []

    def broken(data: bytes, /) -> EmbeddedPhoto:
        calls.append(len(data))
        time.sleep(0.01)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate_lfw(broken, *lfw_tree, workers=2)
    assert len(calls) < 10


def test_ctrl_c_between_two_photos_does_not_wait_for_all_others(
    lfw_tree: tuple[Path, Path], embed_photo: EmbedPhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def slow(data: bytes, /) -> EmbeddedPhoto:
        calls.append(len(data))
        time.sleep(0.01)
        return embed_photo(data)

    def interrupted(items: Iterator[object], *_: object, **__: object) -> Iterator[object]:
        yield next(items)
        raise KeyboardInterrupt

    monkeypatch.setattr("service.evaluation.lfw.track", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate_lfw(slow, *lfw_tree, workers=2)
    assert len(calls) < 10


def test_what_makes_no_sense_is_refused(lfw_tree: tuple[Path, Path], embed_photo: EmbedPhoto) -> None:
    def blind(_data: bytes, /) -> EmbeddedPhoto:
        return EmbeddedPhoto(64, 64, [])

    def unnormalised(_data: bytes, /) -> EmbeddedPhoto:
        return EmbeddedPhoto(64, 64, [EmbeddedFace((20, 20, 40, 40), np.full(4, 0.6, np.float32))])

    with pytest.raises(FaceNotFound, match="in any of the"):
        evaluate_lfw(blind, *lfw_tree, workers=2)
    with pytest.raises(ValueError, match=r"has length 1\.2"):
        evaluate_lfw(unnormalised, *lfw_tree, workers=2)
    with pytest.raises(InvalidRequest, match="0 workers"):
        evaluate_lfw(embed_photo, *lfw_tree, workers=0)
