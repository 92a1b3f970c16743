"""``make train-demo``: the losses compared on two cores in under half an hour, on people that none of them has seen.

Identities of Labeled Faces in the Wild with three photos or more are split three ways: people to test on, people to
tune on, people to train on. Every loss gets the same network, batches, number of steps and schedule. For every loss
one of two candidates is chosen, by accuracy on the tuning people after half of the steps; that one is trained on
training and tuning people together with each seed, and tested once, on the test people.

    OUT/results.json  table.md  figure.png  best.pt  runs/
"""

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.config import Config, parse_config
from models.crops import photos_of
from models.demo_report import write_report
from models.train import train
from service.errors import LikenessError
from service.progress import track
from service.runtime.networks import available_cores

MIN_PHOTOS = 3
TEST_SHARE, TUNING_SHARE = 0.3, 0.15
TUNING_STEPS = 1 / 2  # of the steps of a training
STEPS = 700
BATCH = 64
INSTANCES = 4  # of each identity in a batch, for losses over pairs and triplets


@dataclass(frozen=True)
class Candidate:
    """Parameters that a loss is tried with. Scales are far below the papers', which have 100 times the classes."""

    loss: str
    lr: float = 0.1
    parameters: dict[str, Any] = field(default_factory=dict)


def _scaled(loss: str, name: str, values: Sequence[float], **others: float) -> list[Candidate]:
    return [Candidate(loss, parameters={"scale": 16.0, name: value, **others}) for value in values]


CANDIDATES: dict[str, list[Candidate]] = {
    "softmax": [Candidate("softmax", lr) for lr in (0.1, 0.3)],
    "modified-softmax": [Candidate("modified-softmax", lr) for lr in (0.1, 0.3)],
    "normface": [Candidate("normface", parameters={"scale": scale}) for scale in (8.0, 16.0)],
    "sphereface": [Candidate("sphereface", parameters={"multiple": m, "gamma": 1.0}) for m in (3, 4)],
    "cosface": _scaled("cosface", "margin", (0.1, 0.25)),
    "arcface": _scaled("arcface", "margin_radians", (0.15, 0.35)),
    # With the papers' t of 1.2 a training from fresh weights hardly begins: every other class is a support vector.
    "sv-softmax": _scaled("sv-softmax", "t", (1.05, 1.2)),
    "sv-am-softmax": _scaled("sv-am-softmax", "t", (1.05, 1.2), margin=0.1),
    "sv-arc-softmax": _scaled("sv-arc-softmax", "t", (1.05, 1.2), margin_radians=0.15),
    "f-softmax": _scaled("f-softmax", "gamma", (1.0, 2.0)),
    "hm-softmax": _scaled("hm-softmax", "kept", (0.75, 0.9)),
    "center": [Candidate("center", parameters={"weight": weight}) for weight in (0.003, 0.01)],
    "contrastive": [Candidate("contrastive", parameters={"margin": margin}) for margin in (0.7, 1.0)],
    "triplet": [Candidate("triplet", parameters={"margin": margin}) for margin in (0.2, 0.4)],
    "angular-triplet": [Candidate("angular-triplet", parameters={"margin_radians": m}) for m in (0.35, 0.6)],
}
OVER_PAIRS = ("contrastive", "triplet", "angular-triplet")


@dataclass(frozen=True)
class Demo:
    """What all trainings share."""

    photos: Path
    out: Path
    data_dir: Path
    steps: int

    def config(self, candidate: Candidate, people: str, tested: str, steps: int, seed: int, run: str) -> Config:
        """A training on the list ``people``, tested on the list ``tested`` after the last step."""
        return parse_config(
            {
                "data": {
                    "format": "folder",
                    "path": self.photos,
                    "identities": self.out / people,
                    "instances": INSTANCES if candidate.loss in OVER_PAIRS else 1,
                    "workers": 1,
                    "size": 56,
                    "min_photos": MIN_PHOTOS,
                    "cache": self.out / "crops",
                    "data_dir": self.data_dir,
                },
                "backbone": {"name": "sphereface4", "dimension": 128, "options": {"width": 0.25}},
                "loss": {"name": candidate.loss, "parameters": candidate.parameters},
                "optimiser": {
                    "lr": candidate.lr,
                    "warmup": steps // 20,
                    "milestones": [round(0.6 * steps), round(0.85 * steps)],
                },
                "training": {
                    "out": self.out / "runs" / run,
                    "batch": BATCH,
                    "steps": steps,
                    "seed": seed,
                    "device": "cpu",
                    "checkpoint_every": steps,
                },
                "validation": {"every": steps, "identities": self.out / tested, "pairs": 6000},
            }
        )


def compare(demo: Demo, losses: Sequence[str], seeds: int) -> dict[str, Any]:
    """Tune, train and test; what ``results.json`` says. The report is left in ``demo.out``."""
    begin = time.perf_counter()
    shutil.rmtree(demo.out / "runs", ignore_errors=True)
    demo.out.mkdir(parents=True, exist_ok=True)
    people = split_people(demo)
    short = max(1, round(demo.steps * TUNING_STEPS))
    tuning = {
        (loss, k): demo.config(candidate, "train.txt", "tuning.txt", short, 0, f"{loss}-tuning-{k}")
        for loss in losses
        for k, candidate in enumerate(CANDIDATES[loss])
    }
    tuned = run_all(demo, tuning, "tuning")
    chosen = {
        loss: CANDIDATES[loss][max(range(len(CANDIDATES[loss])), key=lambda k: tuned[loss, k]["accuracy"])]
        for loss in losses
    }
    final = {
        (loss, seed): demo.config(chosen[loss], "train-tuning.txt", "test.txt", demo.steps, seed, f"{loss}-seed-{seed}")
        for seed in range(1, seeds + 1)
        for loss in losses
    }
    tested = run_all(demo, final, "trainings")
    best = max(tested, key=lambda key: tested[key]["accuracy"])
    shutil.copyfile(final[best].training.out / "last.pt", demo.out / "best.pt")
    results = {
        "people": people,
        "steps": demo.steps,
        "batch": BATCH,
        "seeds": seeds,
        "minutes": (time.perf_counter() - begin) / 60,
        "core_minutes": sum(figures["cpu_seconds"] for figures in (*tuned.values(), *tested.values())) / 60,
        "best": f"{best[0]}, seed {best[1]}",
        "losses": {
            loss: {
                "lr": chosen[loss].lr,
                "parameters": chosen[loss].parameters,
                "tuning_accuracy": [tuned[loss, k]["accuracy"] for k in range(len(CANDIDATES[loss]))],
                "tests": [tested[loss, seed] for seed in range(1, seeds + 1)],
            }
            for loss in losses
        },
    }
    write_report(results, demo.out)
    return results


def split_people(demo: Demo) -> dict[str, int]:
    """Write the lists of identities, and say how many each has."""
    people = sorted({name.split("/")[0] for name in photos_of(demo.photos, MIN_PHOTOS)})
    order = [people[k] for k in np.random.default_rng(0).permutation(len(people))]
    test, tuning = round(TEST_SHARE * len(order)), round((TEST_SHARE + TUNING_SHARE) * len(order))
    lists = {
        "test": order[:test],
        "tuning": order[test:tuning],
        "train": order[tuning:],
        "train-tuning": order[test:],
    }
    for name, members in lists.items():
        (demo.out / f"{name}.txt").write_text("\n".join(sorted(members)) + "\n", "utf-8")
    return {name: len(members) for name, members in lists.items()}


def run_all(demo: Demo, configs: dict[tuple[str, int], Config], what: str) -> dict[tuple[str, int], dict[str, float]]:
    """Train each, as many at once as there are cores, a thread each: two threads in one training are slower."""
    # The first one alone, as it may have to cut the crops.
    keys = list(configs)
    log = demo.out / "trainings.log"
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(available_cores(), context, _quiet, (log,)) as pool:
        figures = {keys[0]: pool.submit(_run, configs[keys[0]]).result()}
        futures = {pool.submit(_run, configs[key]): key for key in keys[1:]}
        for future in track(as_completed(futures), what, total=len(futures), unit="training"):
            figures[futures[future]] = future.result()
    return figures


def _quiet(log: Path) -> None:
    torch.set_num_threads(1)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), sys.stderr.fileno())


def _run(config: Config) -> dict[str, float]:
    begin = time.process_time()
    figures = train(config)
    return {**figures, "cpu_seconds": time.process_time() - begin}


def main() -> int:
    """Exit codes: 0 done, 2 something cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m models.demo", description="Compare losses on unseen people.")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="LFW: folder of Name/Name_0001.jpg")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the report goes")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where the bundle is (default: data)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of each training (default: {STEPS})")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each loss (default: 3)")
    parser.add_argument("--losses", nargs="+", choices=list(CANDIDATES), default=list(CANDIDATES), metavar="LOSS")
    args = parser.parse_args()
    try:
        results = compare(Demo(args.images, args.out, args.data_dir, args.steps), args.losses, args.seeds)
    except (ValueError, LikenessError) as error:
        print(f"train-demo: {error}", file=sys.stderr)
        return 2
    print((args.out / "table.md").read_text("utf-8"))
    print(json.dumps({key: value for key, value in results.items() if key != "losses"}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
