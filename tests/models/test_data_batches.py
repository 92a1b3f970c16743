"""The order of training data: every photo once, the same from any step on, groups for losses over pairs."""

from itertools import islice

import numpy as np
import pytest
from numpy.typing import NDArray

from models.batches import Batch, Batches, epoch_order
from models.config import parse_config
from models.data import INSIGHTFACE, Faces

LABELS = np.repeat(np.arange(9), [1, 2, 3, 4, 5, 6, 7, 8, 1])  # 37 photos


def faces() -> Faces:
    """Each photo's first pixel is its row, the last of that line its row + 100."""

    def read(row: int) -> NDArray[np.uint8]:
        pixels = np.zeros((4, 4, 3), np.uint8)
        pixels[0, 0], pixels[0, -1] = row, row + 100
        return pixels

    return Faces(LABELS, tuple(f"person {k}" for k in range(9)), read, INSIGHTFACE, "")


def batches(instances: int = 1, seed: int = 0, workers: int = 2, rank: int = 0, processes: int = 1) -> Batches:
    config = parse_config(
        {
            "data": {"format": "folder", "path": ".", "instances": instances, "workers": workers},
            "backbone": {"name": "mobilefacenet"},
            "loss": {"name": "softmax"},
            "optimiser": {"lr": 0.1},
            "training": {"out": ".", "batch": 8, "steps": 1},
        }
    )
    return Batches(faces(), config.data, 8, seed, rank, processes)


def rows_of(batch: Batch) -> list[int]:
    return [int(image[0, :, 0].min() if image[0, 0, 0] < 100 else image[0, -1, 0]) for image in batch.images]


def same(one: Batch, other: Batch) -> bool:
    return np.array_equal(one.images, other.images) and np.array_equal(one.labels, other.labels)


def test_every_photo_once_an_epoch() -> None:
    assert sorted(epoch_order(LABELS, 1, 0, 0)) == list(range(37))
    assert epoch_order(LABELS, 1, 0, 0).tolist() != epoch_order(LABELS, 1, 0, 1).tolist()
    assert epoch_order(LABELS, 1, 0, 0).tolist() != epoch_order(LABELS, 1, 1, 0).tolist()
    assert batches().per_epoch == 4
    for batch in islice(batches().following(0), 9):
        assert (LABELS[np.array([image[0, [0, -1], 0].min() for image in batch.images])] == batch.labels).all()


def test_groups_of_one_identity() -> None:
    order = epoch_order(LABELS, 3, 0, 0)
    groups = order.reshape(-1, 3)
    assert (LABELS[groups] == LABELS[groups][:, :1]).all()
    # All photos of all who have two, and nobody else's.
    assert set(order) == set(np.flatnonzero((LABELS > 0) & (LABELS < 8)))
    # 2 photos fill one group, 4 and 5 two, 7 and 8 three.
    assert np.bincount(LABELS[groups[:, 0]], minlength=9).tolist() == [0, 1, 1, 2, 2, 2, 3, 3, 0]
    with pytest.raises(ValueError, match="no identity has two photos"):
        epoch_order(np.arange(5), 3, 0, 0)


def test_batches_follow_from_seed_and_step_alone() -> None:
    whole = list(islice(batches(workers=1).following(0), 12))
    for start, workers in ((0, 4), (3, 2), (4, 1), (9, 3)):
        resumed = islice(batches(workers=workers).following(start), 12 - start)
        assert all(same(a, b) for a, b in zip(whole[start:], resumed, strict=True))
    other = next(batches(seed=1).following(0))
    assert not same(other, whole[0])


def test_half_of_the_photos_are_mirrored() -> None:
    mirrored = [image[0, 0, 0] >= 100 for batch in islice(batches().following(0), 100) for image in batch.images]
    # 800 tosses of a fair coin lie within 4.5 standard deviations, 14, of 400 each.
    assert abs(sum(mirrored) - 400) < 64
    assert all(image[0, -1, 0] == image[0, 0, 0] + 100 or image[0, 0, 0] == image[0, -1, 0] + 100
               for image in next(batches().following(0)).images)  # fmt: skip


def test_processes_share_each_batch() -> None:
    whole, *parts = (list(islice(batches(rank=r, processes=n).following(2), 5)) for r, n in ((0, 1), (0, 2), (1, 2)))
    for k in range(5):
        for rank in (0, 1):
            np.testing.assert_array_equal(parts[rank][k].images, whole[k].images[rank::2])
            np.testing.assert_array_equal(parts[rank][k].labels, whole[k].labels[rank::2])


def test_what_does_not_fill_batches_is_refused() -> None:
    with pytest.raises(ValueError, match="a batch of 8 is no multiple of 3 photos × 1 processes"):
        batches(instances=3)
    with pytest.raises(ValueError, match="a batch of 8 is no multiple of 4 photos × 4 processes"):
        batches(instances=4, processes=4)
    config = parse_config({
        "data": {"format": "folder", "path": "."}, "backbone": {"name": "mobilefacenet"}, "loss": {"name": "softmax"},
        "optimiser": {"lr": 0.1}, "training": {"out": ".", "batch": 8, "steps": 1},
    })  # fmt: skip
    with pytest.raises(ValueError, match="37 photos do not fill a batch of 40"):
        Batches(faces(), config.data, 40, 0)


def test_choosing_identities() -> None:
    chosen = faces().of(["person 3", "person 1"])
    assert chosen.identities == ("person 3", "person 1")
    assert np.bincount(chosen.labels).tolist() == [4, 2]
    assert [int(chosen.read(k)[0, 0, 0]) for k in range(6)] == [1, 2, 6, 7, 8, 9]
    with pytest.raises(ValueError, match="1 identities have no usable face here, the first being 'nobody'"):
        faces().of(["person 1", "nobody"])
    with pytest.raises(ValueError, match="named twice"):
        faces().of(["person 1", "person 1"])
