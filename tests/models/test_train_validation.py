"""Pairs of people who are held out, and the embeddings that are compared."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.data import INSIGHTFACE, Faces
from models.embed import TorchEmbedder
from models.validation import Verification, draw_pairs, figures_of

LABELS = np.repeat(np.arange(40), np.tile([1, 2, 3, 12], 10))


def test_pairs_are_what_they_are_called() -> None:
    pairs = draw_pairs(LABELS, 200, seed=0)
    assert (pairs.first != pairs.second).all()
    np.testing.assert_array_equal(LABELS[pairs.first] == LABELS[pairs.second], pairs.genuine)
    both = np.stack([pairs.first, pairs.second], 1)
    assert len(np.unique(np.sort(both, axis=1), axis=0)) == len(both)
    # Nobody in two folds, all folds in use.
    people = [set(LABELS[both[pairs.folds == fold]].ravel()) for fold in range(10)]
    assert all(people)
    assert sum(map(len, people)) == len(set().union(*people))
    assert 100 < pairs.genuine.sum() <= 200
    for fold in range(10):
        assert pairs.genuine[pairs.folds == fold].mean() == 0.5
    again, other = draw_pairs(LABELS, 200, seed=0), draw_pairs(LABELS, 200, seed=1)
    np.testing.assert_array_equal(again.first, pairs.first)
    assert len(other.first) != len(pairs.first) or (other.first != pairs.first).any()


def test_people_have_equal_chances() -> None:
    # 500 photos of the first, 4 of each other: of the impostor pairs in the first one's fold, among ten people, a
    # fifth is the first one's; were photos drawn and not people, nearly all would be.
    labels = np.repeat(np.arange(100), [500] + [4] * 99)
    pairs = draw_pairs(labels, 500, seed=0)
    people = labels[np.stack([pairs.first, pairs.second], 1)]
    fold = pairs.folds[(people == 0).any(1)][0]
    impostors = people[~pairs.genuine & (pairs.folds == fold)]
    assert 0.05 < (impostors == 0).any(1).mean() < 0.4


def test_too_few_people_are_refused() -> None:
    for labels in (np.arange(40), np.zeros(5, np.int64), np.array([0, 0, 1, 2, 3])):
        with pytest.raises(ValueError, match=r"identities with \d+ photos are too few to validate on"):
            draw_pairs(labels, 100, seed=0)


class Features(nn.Module):
    """The mean of each channel on the left half of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        return images[..., : images.shape[3] // 2].mean((2, 3))


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_embedding_is_the_normalised_sum_with_the_mirror_image(order: str) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    embeddings, norms = TorchEmbedder(Features(), order, mean=100.0, scale=50.0, batch=2)(crops)  # type: ignore[arg-type]
    scaled = (crops.astype(np.float64) - 100) / 50
    features = 2 * scaled.mean((1, 2))  # left half and, of the mirror image, right half
    features = features if order == "RGB" else features[:, ::-1]
    expected = np.linalg.norm(features, axis=1)
    np.testing.assert_allclose(norms, expected, rtol=1e-5)
    np.testing.assert_allclose(embeddings, features / expected[:, None], atol=1e-5)


def test_verification_of_what_is_easy_and_what_is_impossible() -> None:
    rng = np.random.default_rng(0)
    colours = rng.integers(20, 236, (40, 3))

    def told_apart(row: int) -> np.ndarray:
        return np.broadcast_to(colours[LABELS[row]].astype(np.uint8), (8, 8, 3))

    def not_told_apart(row: int) -> np.ndarray:
        return np.random.default_rng(row).integers(0, 256, (8, 8, 3), dtype=np.uint8)

    identities = tuple(map(str, range(40)))
    easy, hard = (
        Verification(Faces(LABELS, identities, read, INSIGHTFACE, ""), 1000, seed=0)
        for read in (told_apart, not_told_apart)
    )
    embed = TorchEmbedder(Features())
    scores = easy.scores(embed)
    np.testing.assert_allclose(scores[easy.pairs.genuine], 1, atol=1e-6)
    assert easy(embed) == figures_of(scores, easy.pairs)
    assert easy(embed)["accuracy"] > 0.95
    assert 0.4 < hard(embed)["accuracy"] < 0.6
