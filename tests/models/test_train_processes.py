"""Trainings in processes of their own: one that is killed and goes on, and several that share the work."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from training_run import as_toml, config, require_equal, values, write_photos

from models.checkpoint import load_checkpoint
from models.train import train
from service.engine import Engine

# Each training on its own core, and the same number of threads in all that are compared.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
DROPOUT = {"name": "iresnet18", "dimension": 16, "options": {"width": 0.0625, "dropout": 0.4}}
ANNEALED = {"name": "sphereface", "parameters": {"gamma": 1.0}}
STEPS = 120


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, engine: Engine, group_photo: bytes) -> Path:
    return write_photos(tmp_path_factory.mktemp("processes") / "photos", engine, group_photo)


def command(file: Path, tables: dict[str, Any], processes: int = 1) -> list[str]:
    file.write_text(as_toml(tables))
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [sys.executable, *(several if processes > 1 else []), "-m", "models.train", str(file)]


def finish(file: Path, tables: dict[str, Any], processes: int = 1) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(file, tables, processes), env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
    )


def test_killed_training_goes_on_to_the_same_weights(photos: Path, tmp_path: Path, data_dir: Path) -> None:
    def tables(out: Path) -> dict[str, Any]:
        # 18 photos, batches of 6: the kill falls into the middle of an epoch as likely as not.
        training = {"batch": 6, "steps": STEPS, "checkpoint_every": 7, "precision": "bf16"}
        result = values(photos, out, data_dir, training=training, optimiser={"milestones": [60], "warmup": 10})
        return {
            **result,
            "backbone": DROPOUT,
            "loss": ANNEALED,
            "validation": {"share": 0.34, "every": 50, "pairs": 10},
        }

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert finish(tmp_path / "whole.toml", tables(whole)).returncode == 0

    process = subprocess.Popen(
        command(tmp_path / "killed.toml", tables(killed)), env=ENVIRONMENT, stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 60
    while not any(int(path.name.split("-")[1]) >= STEPS // 3 for path in killed.glob("state-*.pt")):
        assert process.poll() is None, "the training ended before it was killed"
        assert time.monotonic() < until, "no checkpoint in a minute"
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -9
    assert not (killed / "last.pt").exists()
    resumed = finish(tmp_path / "killed.toml", tables(killed))
    assert resumed.returncode == 0, resumed.stderr

    one, other = (load_checkpoint(out / "last.pt") for out in (whole, killed))
    require_equal(one.backbone.state_dict(), other.backbone.state_dict())
    assert one.card.validation == other.card.validation
    logs = [(out / "log.jsonl").read_text().splitlines() for out in (whole, killed)]
    assert [line.split(', "seconds"')[0] for line in logs[0]] == [line.split(', "seconds"')[0] for line in logs[1]]
    best = [load_checkpoint(out / "best.pt") for out in (whole, killed)]
    assert best[0].card.step == best[1].card.step
    require_equal(best[0].backbone.state_dict(), best[1].backbone.state_dict())
    # Head, momentum and random numbers of the last state, too.
    states = [load_checkpoint(next(out.glob("state-*.pt"))).training for out in (whole, killed)]
    for key in ("head", "rng"):
        require_equal(states[0][key], states[1][key])
    momenta = [[entry["momentum_buffer"] for entry in state["optimiser"]["state"].values()] for state in states]
    assert all(torch.equal(a, b) for a, b in zip(*momenta, strict=True))


def test_going_on_with_something_else_is_refused(photos: Path, tmp_path: Path, data_dir: Path) -> None:
    every = {"checkpoint_every": 10}
    train(config(photos, tmp_path, data_dir, training=every))
    assert [path.name for path in tmp_path.glob("state-*")] == ["state-00000020-0of1.pt"]
    other = config(photos, tmp_path, data_dir, training=every, optimiser={"lr": 0.2}, loss={"name": "am-softmax"})
    with pytest.raises(ValueError, match=r"of a training that differs in loss.name, optimiser.lr; go on with"):
        train(other)
    (tmp_path / "state-00000020-0of1.pt").rename(tmp_path / "state-00000020-0of2.pt")
    with pytest.raises(ValueError, match="has the state of a training by 2 processes, not 1"):
        train(config(photos, tmp_path, data_dir, training=every))


def test_two_processes_compute_what_one_does(photos: Path, tmp_path: Path, data_dir: Path) -> None:
    def tables(out: Path) -> dict[str, Any]:
        return values(photos, out, data_dir, training={"steps": 6, "log_every": 1, "checkpoint_every": 4})

    train(config(photos, tmp_path / "one", data_dir, training={"steps": 6, "log_every": 1}))
    two = finish(tmp_path / "two.toml", tables(tmp_path / "two"), processes=2)
    assert two.returncode == 0, two.stderr
    weights = [load_checkpoint(tmp_path / name / "last.pt").backbone.state_dict() for name in ("one", "two")]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-4, atol=1e-5)
    names = sorted(path.name for path in (tmp_path / "two").glob("state-*"))
    assert names == ["state-00000004-0of2.pt", "state-00000004-1of2.pt"]


def test_class_centres_shared_out_over_two_processes(photos: Path, tmp_path: Path, data_dir: Path) -> None:
    tables = values(photos, tmp_path / "out", data_dir, training={"steps": 30, "log_every": 1, "checkpoint_every": 20})
    tables["loss"] |= {"sharded": True, "rate": 0.9}
    result = finish(tmp_path / "sharded.toml", tables, processes=2)
    assert result.returncode == 0, result.stderr
    lines = (tmp_path / "out" / "log.jsonl").read_text().splitlines()
    values_of = [float(line.split('"loss": ')[1].split(",")[0]) for line in lines]
    assert max(values_of[-3:]) < values_of[0] / 2
    slices = [
        load_checkpoint(tmp_path / "out" / f"state-00000020-{rank}of2.pt").training["head"]["head.centers"]
        for rank in (0, 1)
    ]
    assert [len(centres) for centres in slices] == [3, 3]
    assert not torch.equal(*slices)


def test_command_says_what_is_wrong(photos: Path, tmp_path: Path, data_dir: Path) -> None:
    tables = values(photos, tmp_path / "out", data_dir)
    tables["loss"]["name"] = "nonsense"
    result = finish(tmp_path / "wrong.toml", tables)
    assert result.returncode == 2
    assert "train: there is no loss 'nonsense'" in result.stderr
    assert "Traceback" not in result.stderr
