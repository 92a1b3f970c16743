"""A training from photos to a checkpoint: what it learns, writes down and refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_data_recordio import header, photo, write_folder
from training_run import PEOPLE, PHOTOS_EACH, config, require_equal, values, write_photos

from models.checkpoint import load_checkpoint
from models.config import parse_config
from models.data import load_data
from models.embed import TorchEmbedder
from models.train import train
from service.engine import Engine


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, engine: Engine, group_photo: bytes) -> Path:
    return write_photos(tmp_path_factory.mktemp("training") / "photos", engine, group_photo)


def log_of(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in log_of(out) if "loss" in line]


def test_photos_become_a_network_that_tells_people_apart(photos: Path, tmp_path: Path, data_dir: Path) -> None:
    settings = config(photos, tmp_path, data_dir, training={"steps": 60}, optimiser={"milestones": [40]})
    assert train(settings) == {}  # nobody is held out
    checkpoint = load_checkpoint(tmp_path / "last.pt")
    card = checkpoint.card
    assert (card.name, card.dimension, card.alignment.size, card.step) == ("sphereface4", 16, 32, 60)
    assert (card.loss, card.loss_parameters) == ("cosface", {"scale": 8.0, "margin": 0.1})
    assert card.trained_on["identities"] == PEOPLE
    assert card.trained_on["photos"] == PEOPLE * PHOTOS_EACH
    assert parse_config(card.config) == settings
    assert losses(tmp_path)[-1] < losses(tmp_path)[0] / 3

    faces, _ = load_data(settings)
    embed = TorchEmbedder(checkpoint.backbone, card.channel_order, card.mean, card.scale)
    embeddings, _ = embed(np.stack([faces.read(row) for row in range(len(faces))]))
    similarity = embeddings @ embeddings.T
    same = faces.labels[:, None] == faces.labels
    assert similarity[same].min() > similarity[~same].max()


@pytest.mark.parametrize(
    ("name", "parameters", "instances"),
    [
        ("softmax", {}, 1),
        ("sphereface", {"gamma": 1.0}, 1),
        ("sv-arc-softmax", {"scale": 8.0, "margin_radians": 0.2}, 1),
        ("center", {}, 1),
        ("contrastive", {}, 2),
        ("triplet", {}, 2),
        ("angular-triplet", {}, 2),
    ],
)
def test_every_kind_of_loss(
    photos: Path, tmp_path: Path, data_dir: Path, name: str, parameters: dict[str, Any], instances: int
) -> None:
    tables = values(photos, tmp_path, data_dir, data={"instances": instances})
    tables["loss"] = {"name": name, "parameters": parameters}
    train(parse_config(tables))
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]
    assert load_checkpoint(tmp_path / "last.pt").card.loss == name


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_learns_the_same(photos: Path, tmp_path: Path, data_dir: Path, precision: str) -> None:
    for name in ("fp32", precision):
        train(config(photos, tmp_path / name, data_dir, training={"precision": name, "log_every": 1}))
    full, mixed = losses(tmp_path / "fp32"), losses(tmp_path / precision)
    assert full[0] != mixed[0]
    assert mixed[0] == pytest.approx(full[0], rel=0.01)
    # In fp16 the first steps are left out, until the gradients' scale is found.
    assert max(full[-5:]) < full[0] / 3
    assert max(mixed[-5:]) < mixed[0] / 3
    weights = load_checkpoint(tmp_path / precision / "last.pt").backbone.state_dict()
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


def test_validation_on_people_who_are_held_out(photos: Path, tmp_path: Path, data_dir: Path) -> None:
    held_out = tmp_path / "held-out.txt"
    held_out.write_text("person-1\nperson-4\n")
    validation = {"identities": str(held_out), "every": 10, "pairs": 10}
    settings = config(photos, tmp_path, data_dir, validation=validation)
    faces, others = load_data(settings)
    assert others is not None
    assert faces.identities == ("person-0", "person-2", "person-3", "person-5")
    assert others.identities == ("person-1", "person-4")
    figures = train(settings)
    validated = [line for line in log_of(tmp_path) if "accuracy" in line]
    assert [line["step"] for line in validated] == [10, 20, 30]
    assert figures == {name: validated[-1][name] for name in ("accuracy", "tar_at_far_1e-2", "tar_at_far_1e-3")}
    best = load_checkpoint(tmp_path / "best.pt").card
    assert best.validation["accuracy"] == max(line["accuracy"] for line in validated)
    assert best.step == next(line["step"] for line in validated if line["accuracy"] == best.validation["accuracy"])
    assert load_checkpoint(tmp_path / "last.pt").card.validation == figures
    # Looking does not change what is trained.
    train(config(photos, tmp_path / "once", data_dir, validation={**validation, "every": 1000}))
    weights = [load_checkpoint(out / "last.pt").backbone.state_dict() for out in (tmp_path, tmp_path / "once")]
    require_equal(*weights)


def test_share_of_people_held_out_is_the_same_each_time(photos: Path, tmp_path: Path, data_dir: Path) -> None:
    splits = [
        load_data(config(photos, tmp_path, data_dir, validation={"share": 0.34, "seed": seed})) for seed in (0, 0, 1, 2)
    ]
    people = [(faces.identities, held_out.identities if held_out else ()) for faces, held_out in splits]
    assert people[0] == people[1]
    assert len(set(people)) > 1
    for training, held_out in people:
        assert len(held_out) == 2
        assert sorted(training + held_out) == [f"person-{k}" for k in range(PEOPLE)]


def test_records_are_trained_on_too(tmp_path: Path, data_dir: Path) -> None:
    records = {key: header(float(key % 3)) + photo(key % 3)[1] for key in range(1, 13)}
    folder = write_folder(tmp_path / "set", records, "3,112,112")
    tables = values(folder, tmp_path / "out", data_dir, training={"steps": 12, "log_every": 4})
    tables["data"] = {"format": "records", "path": str(folder)}
    train(parse_config(tables))
    assert losses(tmp_path / "out")[-1] < losses(tmp_path / "out")[0]
    card = load_checkpoint(tmp_path / "out" / "last.pt").card
    assert (card.alignment.size, card.trained_on["identities"]) == (112, 3)


def test_epochs_and_schedule(photos: Path, tmp_path: Path, data_dir: Path) -> None:
    tables = values(photos, tmp_path, data_dir, training={"log_every": 1})
    del tables["training"]["steps"]
    tables["training"]["epochs"] = 3
    tables["optimiser"] = {"lr": 0.08, "warmup": 1, "milestones": [4]}
    train(parse_config(tables))
    log = log_of(tmp_path)
    assert [line["epoch"] for line in log] == [0.5, 1, 1.5, 2, 2.5, 3]  # 18 photos: two batches of 8
    assert [line["lr"] for line in log] == pytest.approx([0.04, 0.08, 0.08, 0.08, 0.008, 0.008])


def test_photos_without_a_face_are_listed(
    photos: Path, tmp_path: Path, data_dir: Path, skimage_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = photos / "person-0" / "coffee.png"
    extra.write_bytes((skimage_data / "coffee.png").read_bytes())
    try:
        load_data(config(photos, tmp_path, data_dir, data={"cache": str(tmp_path / "crops")}))
    finally:
        extra.unlink()
    assert f"no usable face: {extra}\n" in capsys.readouterr().err


def test_loss_that_is_not_finite_ends_the_training(photos: Path, tmp_path: Path, data_dir: Path) -> None:
    tables = values(photos, tmp_path, data_dir)
    tables["loss"], tables["optimiser"] = {"name": "softmax"}, {"lr": 1e18, "clip_norm": 0}
    with pytest.raises(ValueError, match=r"the loss is (nan|inf) at step 5; try a lower learning rate"):
        train(parse_config(tables))
    assert not (tmp_path / "last.pt").exists()


def test_device_that_is_not_there(photos: Path, tmp_path: Path, data_dir: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("There is a CUDA device.")
    with pytest.raises(ValueError, match="device is 'cuda', but torch finds no CUDA device"):
        train(config(photos, tmp_path, data_dir, training={"device": "cuda"}))
