"""Identification on LFW: who is enrolled and searched, and every search against a ranking in plain float64."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import InvalidRequest
from service.evaluation.lfw_search import HALVES, NOBODY, LfwSearchResult, Searches, evaluate_lfw_search
from service.evaluation.photos import EmbeddedPhoto, EmbedPhoto

BLANK, GARBAGE = "P_03/P_03_0002.jpg", "P_07/P_07_0001.jpg"


@pytest.fixture
def images(lfw_tree: tuple[Path, Path]) -> Path:
    """Ten persons with five photos each; a blank probe, and garbage for the photo that would be enrolled of P_07.
    P_10 and P_11 have only one photo, and no. 5 of P_00 is a copy of somebody else's, so labelled wrongly."""
    images = lfw_tree[0]
    for number, name in ((10, "P_01/P_01_0002.jpg"), (11, "P_02/P_02_0003.jpg")):
        (images / f"P_{number}").mkdir()
        shutil.copy(images / name, images / f"P_{number}" / f"P_{number}_0001.jpg")
    shutil.copy(images / "P_05/P_05_0001.jpg", images / "P_00/P_00_0005.jpg")
    return images


@pytest.fixture
def result(images: Path, embed_photo: EmbedPhoto) -> LfwSearchResult:
    return evaluate_lfw_search(embed_photo, images, workers=2)


def never(_data: bytes, /) -> EmbeddedPhoto:
    raise AssertionError("embedded a photo, though there is nothing to be measured")


def ranking(vectors: dict[str, NDArray[np.float64]], persons: list[str], probe: str) -> list[tuple[float, str]]:
    """(similarity, person), best first, by each person's first photo."""
    if probe not in vectors:
        return []
    enrolled = {person: vectors.get(f"{person}/{person}_0001.jpg") for person in persons}
    scores = [(float(v @ vectors[probe]), person) for person, v in enrolled.items() if v is not None]
    return sorted(scores, key=lambda score: (-score[0], score[1]))


def check_searches(
    result: LfwSearchResult, searches: Searches, enrolled: list[str], embed: EmbedPhoto, images: Path
) -> None:
    vectors = {}
    for name in result.photos.names:
        if name not in (BLANK, GARBAGE):
            vectors[name] = embed((images / name).read_bytes()).faces[1].embedding.astype(np.float64)
    probes = [result.photos.names[probe] for probe in searches.probes]
    not_probes = {f"{person}/{person}_0001.jpg" for person in enrolled}
    assert probes == [name for name in result.photos.names if name not in not_probes]
    assert searches.persons == len(enrolled)
    for k, probe in enumerate(probes):
        expected = ranking(vectors, enrolled, probe)
        person = probe.split("/")[0]
        assert searches.mates[k] == (result.persons.index(person) if person in enrolled else NOBODY)
        if not expected:
            assert (searches.firsts[k], searches.similarities[k], searches.ranks[k]) == (NOBODY, -np.inf, 0)
            continue
        assert searches.similarities[k] == pytest.approx(expected[0][0], abs=1e-12)
        assert result.persons[searches.firsts[k]] == expected[0][1]
        order = [name for _, name in expected[: searches.depth]]
        assert searches.ranks[k] == (order.index(person) + 1 if person in order else 0)


def test_the_closed_set_has_everybody_and_ranks_them(
    result: LfwSearchResult, images: Path, embed_photo: EmbedPhoto
) -> None:
    assert set(result.photos.undetected) == {BLANK, GARBAGE}
    assert result.persons == tuple(f"P_{number:02d}" for number in range(12))
    check_searches(result, result.closed, list(result.persons), embed_photo, images)
    assert result.closed.depth == 12
    assert result.closed.mated.all()
    ranks = dict(zip((result.photos.names[probe] for probe in result.closed.probes), result.closed.ranks, strict=True))
    assert ranks[BLANK] == 0
    assert {rank for name, rank in ranks.items() if name.startswith("P_07/")} == {0}, "its mate could not be enrolled"
    assert {1, 2, 3} < set(ranks.values()), "the photos are to be neither hopeless nor easy"


def test_half_of_the_persons_are_strangers_to_the_open_set(
    result: LfwSearchResult, images: Path, embed_photo: EmbedPhoto
) -> None:
    assert len(result.halves) == HALVES
    chosen = set()
    for half in result.halves:
        strangers = {result.photos.names[probe].split("/")[0] for probe in half.probes[~half.mated]}
        enrolled = [person for person in result.persons if person not in strangers]
        assert len(enrolled) == 6
        check_searches(result, half, enrolled, embed_photo, images)
        chosen.add(tuple(enrolled))
    assert len(chosen) > 5


def test_the_halves_are_the_same_in_every_run(result: LfwSearchResult, images: Path, embed_photo: EmbedPhoto) -> None:
    again = evaluate_lfw_search(embed_photo, images, workers=1)
    for one, other in zip(result.halves, again.halves, strict=True):
        assert np.array_equal(one.mates, other.mates)


def test_what_cannot_be_searched_is_refused_before_any_work(images: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "none", images / "P_00"):
        with pytest.raises(InvalidRequest, match="no photo Name/Name_0001.jpg in") as caught:
            evaluate_lfw_search(never, folder, workers=1)
        assert str(folder) in caught.value.message
    for path in images.glob("*/*_000[2-5].jpg"):
        path.unlink()
    with pytest.raises(InvalidRequest, match="none of the 12 persons in .* has a second photo"):
        evaluate_lfw_search(never, images, workers=1)
    shutil.copy(images / "P_01/P_01_0001.jpg", images / "P_01/P_01_0002.jpg")
    with pytest.raises(InvalidRequest, match="6 of the 12 persons left out at random, 0 probes are of somebody"):
        evaluate_lfw_search(never, images, workers=1)
    for person in images.iterdir():
        if person.name != "P_01":
            shutil.rmtree(person)
    with pytest.raises(InvalidRequest, match="0 of the 1 persons left out .* 0 of a stranger"):
        evaluate_lfw_search(never, images, workers=1)
