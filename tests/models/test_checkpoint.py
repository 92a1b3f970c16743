"""Checkpoints: what was saved comes back, and nothing else is taken for one."""

import pickle
from pathlib import Path

import pytest
import torch
from training_run import require_equal

from models.checkpoint import FORMAT, Card, load_checkpoint, save_checkpoint
from models.crops import scaled
from models.data import INSIGHTFACE


def card() -> Card:
    return Card(
        name="iresnet18",
        options={"width": 0.125, "dropout": 0.2},
        dimension=8,
        channel_order="BGR",
        mean=127.5,
        scale=128.0,
        alignment=scaled(INSIGHTFACE, 32),
        loss="arcface",
        loss_parameters={"margin_radians": 0.3},
        trained_on={"identities": 3},
        config={"training": {"seed": 1}},
        step=7,
        validation={"accuracy": 0.75},
    )


def test_network_and_card_come_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = card().build()
    images = torch.randn(4, 3, 32, 32)
    backbone(images)  # moves the batch norms
    save_checkpoint(tmp_path / "a.pt", backbone, card())
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert loaded.card == card()
    assert loaded.training is None
    assert not loaded.backbone.training
    require_equal(loaded.backbone.state_dict(), backbone.state_dict())
    torch.testing.assert_close(loaded.backbone(images), backbone.eval()(images), rtol=0, atol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_layout_is_the_documented_one(tmp_path: Path) -> None:
    training = {"optimiser": {"state": {0: torch.ones(2)}}, "best": None}
    save_checkpoint(tmp_path / "a.pt", card().build(), card(), training)
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    assert content.keys() == {"format", "version", "card", "backbone", "training"}
    assert (content["format"], content["version"]) == ("likeness-checkpoint", 1)
    assert content["card"]["alignment"]["size"] == 32
    assert type(content["backbone"]) is dict
    state = load_checkpoint(tmp_path / "a.pt").training
    assert state is not None
    assert state["optimiser"]["state"][0].tolist() == [1, 1]


def test_replacing_is_all_or_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    save_checkpoint(file, card().build(), card())
    before = file.read_bytes()
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(file, card().build(), card(), {"cannot be saved": lambda: 0})
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


class _Harm:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run by the checkpoint",)


def test_other_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.pt"
    with pytest.raises(ValueError, match=r"a.pt cannot be read as a checkpoint: .*No such file"):
        load_checkpoint(file)
    save_checkpoint(file, card().build(), card())
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        load_checkpoint(file)
    file.write_bytes(pickle.dumps(_Harm()))
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        load_checkpoint(file)
    assert "run by" not in capsys.readouterr().out
    torch.save({"weight": torch.ones(2)}, file)
    with pytest.raises(ValueError, match=f"it has no format '{FORMAT}'"):
        load_checkpoint(file)
    torch.save({"format": FORMAT, "version": 2}, file)
    with pytest.raises(ValueError, match="a checkpoint of version 2; this program reads 1"):
        load_checkpoint(file)


def test_weights_that_are_not_the_cards(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    save_checkpoint(file, card().build(), card())
    content = torch.load(file, weights_only=True)
    for change, message in (
        ({"backbone": {**content["backbone"], "extra": torch.ones(1)}}, "extra"),
        ({"backbone": {"stem": 1}}, "not a dictionary of tensors"),
        ({"card": {**content["card"], "dimension": 9}}, "size mismatch"),
        ({"card": {**content["card"], "name": "vgg"}}, "backbone is 'vgg'"),
        ({"card": {**content["card"], "colour": "RGB"}}, "colour"),
    ):
        torch.save({**content, **change}, file)
        with pytest.raises(ValueError, match=f"a.pt is damaged: [^$]*{message}"):
            load_checkpoint(file)
