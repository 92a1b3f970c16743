"""What the tests of training share: photos of six people, and the configuration of a small training on them."""

import copy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from models.config import Config, parse_config
from service.engine import Engine

PEOPLE, PHOTOS_EACH = 6, 3


def write_photos(folder: Path, engine: Engine, group_photo: bytes) -> Path:
    """The six people of a photo, each cut out three times, brighter each time: ``folder/person-0/0.jpg``."""
    image, faces = engine.detect(group_photo)
    assert len(faces) == PEOPLE
    for number, found in enumerate(faces):
        (folder / f"person-{number}").mkdir(parents=True)
        x1, y1, x2, y2 = (int(v) for v in found.face.box)
        cut = image.pixels[max(0, y1 - 40) : y2 + 40, max(0, x1 - 40) : x2 + 40]
        for photo in range(PHOTOS_EACH):
            brighter = np.clip(cut.astype(int) + 15 * photo, 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / f"person-{number}" / f"{photo}.jpg"), cv2.cvtColor(brighter, cv2.COLOR_RGB2BGR))
    return folder


def values(photos: Path, out: Path, data_dir: Path, **changes: Any) -> dict[str, Any]:
    """A configuration as TOML would give it; ``changes`` are added to its tables."""
    result: dict[str, Any] = {
        "data": {
            "format": "folder",
            "path": str(photos),
            "cache": str(photos.parent / "crops"),
            "size": 32,
            "data_dir": str(data_dir),
        },
        "backbone": {"name": "sphereface4", "dimension": 16, "options": {"width": 0.125}},
        "loss": {"name": "cosface", "parameters": {"scale": 8.0, "margin": 0.1}},
        "optimiser": {"lr": 0.05, "milestones": [20]},
        "training": {"out": str(out), "batch": 8, "steps": 30, "device": "cpu", "log_every": 5},
    }
    for table, keys in copy.deepcopy(changes).items():
        result.setdefault(table, {}).update(keys)
    return result


def config(photos: Path, out: Path, data_dir: Path, **changes: Any) -> Config:
    return parse_config(values(photos, out, data_dir, **changes))


def as_toml(tables: dict[str, Any]) -> str:
    """Enough of TOML for these configurations."""

    def value(v: Any) -> str:
        if isinstance(v, dict):
            return "{" + ", ".join(f"{name} = {value(inner)}" for name, inner in v.items()) + "}"
        return str(v).lower() if isinstance(v, bool) else repr(v).replace("'", '"')

    return "\n".join(
        f"[{table}]\n" + "".join(f"{name} = {value(v)}\n" for name, v in keys.items()) for table, keys in tables.items()
    )


def require_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Fail unless two state_dicts have the same names and the same bits."""
    assert one.keys() == other.keys()
    different = [name for name in one if not bool((one[name] == other[name]).all())]
    if different:
        pytest.fail(f"{len(different)} of {len(one)} tensors differ, the first being {different[0]}")
