"""The LFW protocol: pairs files, and what becomes of photos that give no embedding."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from service.errors import InvalidRequest
from service.evaluation.lfw import evaluate_lfw, read_pairs
from service.evaluation.photos import EmbeddedPhoto, EmbedPhoto
from service.evaluation.verification import Pair

LFW = Path(__file__).resolve().parents[4] / "shared" / "data" / "lfw"
BLANK, GARBAGE = "P_03/P_03_0002.jpg", "P_07/P_07_0001.jpg"

VIEW_2 = "2\t1\nAnn_Lee\t1\t12\nBob\t3\tAnn_Lee\t4\nCy\t1\t2\nBob\t1\tCy\t2\n"
VIEW_1 = "2\nAnn\t1\t2\nAnn\t2\t3\nAnn\t1\tBob\t1\nBob\t2\tCy\t1\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pairs.txt"
    path.write_text(text)
    return path


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


def test_every_photo_is_embedded_and_every_pair_compared(lfw_tree: tuple[Path, Path], embed_photo: EmbedPhoto) -> None:
    images, pairs_file = lfw_tree
    result = evaluate_lfw(embed_photo, images, pairs_file, workers=3)
    assert list(result.pairs) == read_pairs(pairs_file)
    assert list(result.photos.names) == sorted({p for pair in result.pairs for p in (pair.first, pair.second)})
    undetected = set(result.photos.undetected)
    assert undetected == {BLANK, GARBAGE}
    vectors = {
        p: embed_photo((images / p).read_bytes()).faces[1].embedding.astype(np.float64)
        for p in result.photos.names
        if p not in undetected
    }
    for pair, similarity in zip(result.pairs, result.similarity, strict=True):
        if {pair.first, pair.second} & undetected:
            assert similarity == -np.inf
        else:
            assert similarity == pytest.approx(float(vectors[pair.first] @ vectors[pair.second]), abs=1e-12)
    for row, photo in enumerate(result.photos.names):
        assert np.array_equal(result.photos.embeddings[row], vectors.get(photo, np.zeros(192)))
    assert result.photos.embeddings.dtype == np.float32
    assert result.pairs_sha256 == hashlib.sha256(pairs_file.read_bytes()).hexdigest()
    assert result.photos.seconds > 0


def test_a_missing_photo_stops_the_evaluation_before_it_begins(lfw_tree: tuple[Path, Path]) -> None:
    images, pairs_file = lfw_tree
    (images / GARBAGE).unlink()

    def never(_data: bytes, /) -> EmbeddedPhoto:
        raise AssertionError("embedded a photo of an incomplete set")

    with pytest.raises(InvalidRequest, match=GARBAGE) as caught:
        evaluate_lfw(never, images, pairs_file, workers=2)
    assert str(images) in caught.value.message
