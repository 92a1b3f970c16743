"""The configuration of a training: read from TOML, unknown and impossible values refused by name."""

import re
from pathlib import Path
from typing import Any

import pytest
from training_run import as_toml, values

from models.backbones import make_backbone
from models.config import Optimiser, parse_config, read_config
from models.losses import make_head

CONFIGS = Path(__file__).resolve().parents[2] / "models" / "configs"


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Any]:
    return values(tmp_path / "photos", tmp_path / "out", tmp_path)


def test_toml_gives_what_it_says(tmp_path: Path, tables: dict[str, Any]) -> None:
    file = tmp_path / "config.toml"
    file.write_text(as_toml(tables))
    config = read_config(file)
    assert config == parse_config(tables)
    assert config.data.path == tmp_path / "photos"
    assert config.backbone.options == {"width": 0.125}
    assert config.loss.parameters == {"scale": 8.0, "margin": 0.1}
    assert config.optimiser.milestones == (20,)
    assert (config.optimiser.momentum, config.optimiser.weight_decay) == (0.9, 5e-4)
    assert config.validation.every == 1000
    assert parse_config(config.as_json()) == config


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.toml")), ids=lambda file: file.stem)
def test_the_configurations_that_come_along_describe_networks_and_losses(file: Path) -> None:
    config = read_config(file)
    assert str(config.training.out) == f"runs/{file.stem}"
    make_backbone(config.backbone.name, config.backbone.dimension, **config.backbone.options)
    make_head(config.loss.name, 100, config.backbone.dimension, **config.loss.parameters)
    assert config.optimiser.milestones[-1] < (config.training.steps or 0)


@pytest.mark.parametrize(
    ("table", "key", "value", "message"),
    [
        ("data", "min_photo", 2, "data.min_photo is not a key that is known"),
        ("loss", "margin", 0.2, "loss.margin is not a key that is known"),
        ("data", "format", "lmdb", "data.format: Input should be 'folder' or 'records' (got 'lmdb')"),
        ("optimiser", "lr", 0, "optimiser.lr: Input should be greater than 0 (got 0)"),
        ("optimiser", "lr", "fast", "optimiser.lr: Input should be a valid number"),
        ("training", "precision", "fp8", "training.precision: Input should be 'fp32', 'bf16' or 'fp16' (got 'fp8')"),
        ("training", "epochs", 3, "give steps or epochs, one of the two, not steps = 30, epochs = 3"),
        ("training", "steps", None, "not steps = None, epochs = None"),
        ("validation", "share", 1.0, "validation.share: Input should be less than 1 (got 1.0)"),
    ],
)
def test_what_is_wrong_is_named(tables: dict[str, Any], table: str, key: str, value: object, message: str) -> None:
    tables.setdefault(table, {})[key] = value
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_config(tables)


def test_whole_tables(tables: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="optimizer is not a key that is known"):
        parse_config({**tables, "optimizer": {}})
    del tables["loss"], tables["training"]["out"]
    with pytest.raises(ValueError, match=r"loss is missing; training.out is missing"):
        parse_config(tables)


def test_what_excludes_each_other(tables: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="give share or identities, not both"):
        parse_config({**tables, "validation": {"share": 0.1, "identities": "people.txt"}})
    tables["loss"]["sharded"], tables["training"]["precision"] = True, "fp16"
    with pytest.raises(ValueError, match="a sharded loss cannot be trained in fp16"):
        parse_config(tables)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing.toml: .*No such file"):
        read_config(tmp_path / "missing.toml")
    (tmp_path / "bad.toml").write_text("[data\n")
    with pytest.raises(ValueError, match=r"bad.toml: Expected"):
        read_config(tmp_path / "bad.toml")


def test_learning_rate_by_step() -> None:
    optimiser = Optimiser(lr=0.8, warmup=3, milestones=(10, 15), factor=0.1)
    assert [optimiser.rate_at(step) for step in (0, 1, 2, 3, 9)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])
    assert [optimiser.rate_at(step) for step in (10, 14, 15, 99)] == pytest.approx([0.08, 0.08, 0.008, 0.008])
