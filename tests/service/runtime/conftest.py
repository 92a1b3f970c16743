"""A whole card with made-up figures, as the fields of its JSON, and two files that it describes."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Fields = dict[str, Any]

NETWORKS = {"detector": b"a detector, as far as digests go", "embedder": b"an embedder, likewise"}


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@pytest.fixture
def seal() -> Callable[[Fields], Fields]:
    """Makes both digests of a card anew, over what it says now."""

    def sealed(card: Fields) -> Fields:
        card["embedding_contract"] = digest(card["contract"])
        if calibration := card["calibration"]:
            calibration["embedding_contract"] = card["embedding_contract"]
            figures = {key: value for key, value in calibration.items() if key != "calibration_id"}
            calibration["calibration_id"] = digest(figures)
        return card

    return sealed


@pytest.fixture
def fields(seal: Callable[[Fields], Fields]) -> Fields:
    """A valid card."""
    licence = {"spdx": "MIT", "url": "https://authors.example/LICENSE", "commercial_use": True}

    def network(role: str, weights: str) -> Fields:
        content = NETWORKS[role]
        source = {"file": f"{role}_v1.onnx", "sha256": weights, "url": "https://authors.example/", "licence": licence}
        sha256 = hashlib.sha256(content).hexdigest()
        return {"file": f"{role}.onnx", "sha256": sha256, "size": len(content), "input": "uint8", "source": source}

    template = [[5.5, 7.0], [10.5, 7.0], [8.0, 10.25], [6.0, 13.0], [10.0, 13.0]]
    return seal(
        {
            "schema_version": 1,
            "name": "made-up",
            "version": "1",
            "description": "For tests.",
            "licence": licence,
            "detector": network("detector", "d" * 64),
            "embedder": network("embedder", "e" * 64),
            "contract": {
                "weights": "e" * 64,
                "preprocessing": {"channels": "RGB", "mean": 0.0, "scale": 1.0},
                "alignment": {"size": 16, "template": template},
                "fusion": "sum",
                "dimension": 2,
                "precision": "float32",
            },
            "embedding_contract": "",
            "parity": {
                "crops": 6,
                "min_cosine": 0.9999999,
                "max_abs_deviation": 1e-7,
                "max_batch_deviation": 0.0,
                "detector_max_px": 1e-4,
                "detector_max_score": 1e-6,
            },
            "calibration": {
                "calibration_id": "",
                "embedding_contract": "",
                "detector": "d" * 64,
                "dataset": "made up",
                "dataset_sha256": "a" * 64,
                "persons": 10,
                "photos": 50,
                "genuine": 100,
                "impostor": 10_000,
                "points": [
                    {"fmr": 0.1, "threshold": 0.25, "fnmr": 0.01},
                    {"fmr": 0.01, "threshold": 0.5, "fnmr": 0.02},
                    {"fmr": 0.001, "threshold": 0.75, "fnmr": 0.125},
                ],
            },
        }
    )


@pytest.fixture
def folder(tmp_path: Path, fields: Fields) -> Path:
    """A bundle's folder with that card. Its networks are no networks, which nobody notices before they are loaded."""
    home = tmp_path / "data" / "bundles" / "made-up"
    home.mkdir(parents=True)
    (home / "card.json").write_text(json.dumps(fields), encoding="utf-8")
    for role, content in NETWORKS.items():
        (home / f"{role}.onnx").write_bytes(content)
    return home
