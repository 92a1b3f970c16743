"""The real bundle, tampered with, and the digests made anew by whoever did it: the service does not start on it."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from service.engine import load_engine
from service.errors import BundleError
from service.runtime.bundle import Bundle
from service.settings import Settings

Fields = dict[str, Any]


@pytest.fixture
def copied(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.path, tmp_path / "copied"))


def reseal(folder: Path, change: Callable[[Fields], object]) -> None:
    """Edit the card, and make every digest in it right for what it says and for the files as they are."""
    card = json.loads((folder / "card.json").read_text("utf-8"))
    card["calibration"] = None
    change(card)
    for role in ("detector", "embedder"):
        content = (folder / card[role]["file"]).read_bytes()
        card[role] |= {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    canonical = json.dumps(card["contract"], sort_keys=True, separators=(",", ":"))
    card["embedding_contract"] = hashlib.sha256(canonical.encode()).hexdigest()
    (folder / "card.json").write_text(json.dumps(card), "utf-8")


def start(folder: Path) -> None:
    load_engine(Settings(bundle=str(folder), provider="cpu"))


def test_the_copy_as_it_is_starts(copied: Path) -> None:
    reseal(copied, lambda _: None)
    start(copied)


def edit(**values: object) -> Callable[[Fields], object]:
    return lambda card: card["contract"].update(values)


def move_a_landmark(card: Fields) -> None:
    card["contract"]["alignment"]["template"][2][0] += 2.0


def normalise(card: Fields) -> None:
    card["contract"]["preprocessing"] = {"channels": "BGR", "mean": 127.5, "scale": 128.0}


def other_weights(card: Fields) -> None:
    card["contract"]["weights"] = card["embedder"]["source"]["sha256"] = "f" * 64


@pytest.mark.parametrize(
    "lie",
    [
        edit(dimension=512),
        edit(fusion="none"),
        edit(fusion="concat", dimension=256),
        move_a_landmark,
        normalise,
        edit(precision="float16"),
        edit(precision="int8", quantised="a" * 64),
        edit(projection="b" * 64),
        other_weights,
    ],
    ids=[
        "dimension",
        "fusion",
        "fusion and dimension",
        "template",
        "preprocessing",
        "float16",
        "int8",
        "pca",
        "weights",
    ],
)
def test_a_card_that_lies_with_its_digests_made_anew_is_refused(copied: Path, lie: Callable[[Fields], object]) -> None:
    reseal(copied, lie)
    with pytest.raises(BundleError, match="The card says likeness.embedding_contract = .*, the network says '"):
        start(copied)


@pytest.mark.parametrize("role", ["detector", "embedder"])
def test_a_byte_flipped_anywhere_is_refused(copied: Path, role: str) -> None:
    file = copied / f"{role}.onnx"
    content = file.read_bytes()
    for place in (0, len(content) // 3, len(content) // 2, len(content) - 1):
        changed = bytearray(content)
        changed[place] ^= 0x10
        file.write_bytes(changed)
        with pytest.raises(BundleError, match=rf"{role}\.onnx is not what its card says: sha256"):
            start(copied)


def test_a_stamp_that_is_forged_does_not_make_up_for_another_output(copied: Path) -> None:
    """The card and the stamp agree on a dimension that the network does not have."""
    reseal(copied, edit(dimension=64))
    card = json.loads((copied / "card.json").read_text("utf-8"))
    model = onnx.load(str(copied / "embedder.onnx"))
    next(p for p in model.metadata_props if p.key == "likeness.embedding_contract").value = card["embedding_contract"]
    (copied / "embedder.onnx").write_bytes(model.SerializeToString())
    reseal(copied, lambda _: None)
    with pytest.raises(BundleError, match=r"crops of 112×112 and dimension 64, the network takes .* and gives 128"):
        start(copied)


def test_a_network_that_is_replaced_by_a_link_out_of_the_folder_is_read_as_what_it_is(copied: Path) -> None:
    (copied / "embedder.onnx").unlink()
    (copied / "embedder.onnx").symlink_to("/etc/passwd")
    with pytest.raises(BundleError, match=r"embedder\.onnx has \d+ bytes, its card says"):
        start(copied)


def test_an_int8_card_must_say_which_network_it_means(copied: Path) -> None:
    reseal(copied, edit(precision="int8"))
    with pytest.raises(BundleError, match="precision int8 and quantised None do not go together"):
        start(copied)


def test_weights_changed_within_the_file_are_told_by_the_digest_alone(copied: Path) -> None:
    model = onnx.load(str(copied / "embedder.onnx"))
    largest = max(model.graph.initializer, key=lambda tensor: int(np.prod(tensor.dims)))
    weight = numpy_helper.to_array(largest).copy()
    weight.flat[0] += 1
    largest.CopyFrom(numpy_helper.from_array(weight, largest.name))
    (copied / "embedder.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match=r"embedder\.onnx"):
        start(copied)
