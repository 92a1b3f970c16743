"""Adoption is all or nothing: what it leaves behind when all goes well, and when it is refused."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from export.adopt import adopt
from export.catalog import BundleRecipe
from export.embedder import adopt_embedder
from service.errors import BundleError
from service.runtime.bundle import CARD_FILE, open_bundle
from service.runtime.card import Fusion

Files = tuple[Path, Path]


@pytest.fixture
def files(published: Files, tiny_embedder: Path) -> Files:
    return published[0], tiny_embedder


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def states(folder: Path) -> dict[str, tuple[int, int]]:
    """Identity and time of change of everything below a folder."""
    return {str(path): (path.lstat().st_ino, path.lstat().st_mtime_ns) for path in folder.rglob("*")}


def newer(recipe: BundleRecipe) -> BundleRecipe:
    return replace(recipe, version="2")


def test_a_bundle_is_a_folder_named_by_its_card_and_a_link_to_it(
    tmp_path: Path, tiny_recipe: BundleRecipe, files: Files
) -> None:
    folder = adopt(tiny_recipe, *files, tmp_path)
    digest = hashlib.sha256((folder / CARD_FILE).read_bytes()).hexdigest()
    link = tmp_path / "bundles" / "tiny"
    assert folder == tmp_path / "bundles" / f"tiny-{digest[:12]}"
    # Relative, so that the data folder can be moved, or mounted elsewhere.
    assert link.readlink() == Path(folder.name)
    assert names_in(tmp_path / "bundles") == {"tiny", folder.name}
    assert names_in(folder) == {"card.json", "detector.onnx", "embedder.onnx"}
    assert open_bundle(link).card == open_bundle(folder).card


def test_the_card_says_what_the_bundle_was_made_of(tiny_bundle: Path, tiny_recipe: BundleRecipe, files: Files) -> None:
    card = open_bundle(tiny_bundle).card
    for network, file, path in zip((card.detector, card.embedder), tiny_recipe.files, files, strict=True):
        content = (tiny_bundle / network.file).read_bytes()
        assert (network.sha256, network.size) == (hashlib.sha256(content).hexdigest(), len(content))
        assert network.source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256
        assert (network.source.file, network.source.url, network.source.licence) == (
            file.name,
            file.official,
            file.licence,
        )
    assert (card.licence.spdx, card.licence.commercial_use) == ("MIT AND Apache-2.0", True)
    assert (card.contract.dimension, card.contract.fusion, card.contract.alignment.size) == (16, "sum", 112)
    assert card.contract.weights == tiny_recipe.embedder.sha256


def test_one_part_that_is_not_for_commercial_use_makes_the_whole_so(
    tmp_path: Path, tiny_recipe: BundleRecipe, files: Files
) -> None:
    licence = tiny_recipe.embedder.licence.model_copy(update={"commercial_use": False, "spdx": "MIT"})
    restricted = replace(tiny_recipe, embedder=replace(tiny_recipe.embedder, licence=licence))
    card = open_bundle(adopt(restricted, *files, tmp_path)).card
    assert (card.licence.spdx, card.licence.commercial_use) == ("MIT", False)


def test_adopting_the_same_again_changes_nothing_in_the_folder(
    data: Path, tiny_in_use: Path, tiny_recipe: BundleRecipe, files: Files
) -> None:
    before = states(tiny_in_use)
    assert adopt(tiny_recipe, *files, data) == tiny_in_use
    assert states(tiny_in_use) == before
    assert names_in(data / "bundles") == {"tiny", tiny_in_use.name}


def test_a_newer_version_takes_the_link_over_and_leaves_the_older_folder(
    data: Path, tiny_in_use: Path, tiny_recipe: BundleRecipe, files: Files
) -> None:
    new = adopt(newer(tiny_recipe), *files, data)
    assert names_in(data / "bundles") == {"tiny", tiny_in_use.name, new.name}
    assert open_bundle(data / "bundles" / "tiny").card.version == "2"
    assert open_bundle(tiny_in_use).card.version == "1"


@pytest.mark.parametrize("wrong", [0, 1], ids=["detector", "embedder"])
def test_a_published_file_with_another_digest_is_refused(
    tmp_path: Path, tiny_recipe: BundleRecipe, files: Files, wrong: int
) -> None:
    content = bytearray(files[wrong].read_bytes())
    content[-1] ^= 1
    other = tmp_path / "other.onnx"
    other.write_bytes(content)
    given = [other if i == wrong else path for i, path in enumerate(files)]
    catalogued = tiny_recipe.files[wrong].sha256[:16]
    with pytest.raises(BundleError, match=rf"other\.onnx has sha256 [0-9a-f]{{16}}…, the catalogue says {catalogued}…"):
        adopt(tiny_recipe, *given, tmp_path)
    assert names_in(tmp_path / "bundles") == set()


def perturb(model: ModelProto) -> ModelProto:
    [tensor] = [tensor for tensor in model.graph.initializer if tensor.name == "gemm.weight"]
    weight = numpy_helper.to_array(tensor)
    noise = np.random.default_rng(0).normal(0, 0.05, weight.shape)
    tensor.CopyFrom(numpy_helper.from_array((weight * (1 + noise)).astype(np.float32), tensor.name))
    return model


def test_a_rewrite_that_changes_the_weights_makes_no_bundle(
    tmp_path: Path, tiny_recipe: BundleRecipe, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.adopt.adopt_embedder", lambda *given: perturb(adopt_embedder(*given)))
    with pytest.raises(BundleError, match="Parity failed: the cosine.*No bundle was made"):
        adopt(tiny_recipe, *files, tmp_path)
    assert names_in(tmp_path / "bundles") == set()


@pytest.mark.usefixtures("tiny_in_use")
def test_a_bundle_in_use_stays_in_use_when_its_successor_is_refused(
    data: Path, tiny_recipe: BundleRecipe, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = states(data / "bundles")
    monkeypatch.setattr("export.adopt.adopt_embedder", lambda *given: perturb(adopt_embedder(*given)))
    with pytest.raises(BundleError, match="Parity failed"):
        adopt(newer(tiny_recipe), *files, data)
    assert states(data / "bundles") == before


def other_output(*shape: int) -> Callable[[ModelProto], None]:
    def edit(model: ModelProto) -> None:
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info("fc1", TensorProto.FLOAT, shape))

    return edit


def fixed_batch(model: ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 32]), "shape"))
    model.graph.node[4].CopyFrom(helper.make_node("Reshape", ["d", "shape"], ["e"]))


def first_crop_only(model: ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "first"))
    model.graph.node[4].CopyFrom(helper.make_node("Flatten", ["one"], ["e"]))
    model.graph.node.insert(4, helper.make_node("Gather", ["d", "first"], ["one"], axis=0))


def a_map(model: ModelProto) -> None:
    del model.graph.node[4:]
    model.graph.node[3].output[0] = "fc1"


@pytest.fixture
def adopt_edited(
    tmp_path: Path, tiny_recipe: BundleRecipe, files: Files
) -> Callable[[Callable[[ModelProto], object], Fusion], Path]:
    """Adopts the tiny embedder after a change to its file."""

    def run(edit: Callable[[ModelProto], object], fusion: Fusion) -> Path:
        model = onnx.load(str(files[1]))
        edit(model)
        path = tmp_path / "edited.onnx"
        onnx.save(model, path)
        embedder = replace(tiny_recipe.embedder, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        return adopt(replace(tiny_recipe, embedder=embedder, fusion=fusion), files[0], path, tmp_path)

    return run


@pytest.mark.parametrize(
    "edit",
    [other_output(), other_output(1, 8), fixed_batch],
    ids=["no dimension", "half the dimension", "a batch fixed inside"],
)
def test_what_a_file_does_not_say_or_says_wrongly_is_mended(
    adopt_edited: Callable[..., Path], tiny_bundle: Path, edit: Callable[[ModelProto], object]
) -> None:
    card = open_bundle(adopt_edited(edit, "sum")).card
    as_published = open_bundle(tiny_bundle).card
    assert card.contract.dimension == as_published.contract.dimension
    assert card.parity.max_abs_deviation < 1e-6


@pytest.mark.parametrize("fusion", ["none", "sum"])
@pytest.mark.parametrize("edit", [first_crop_only, a_map], ids=["one crop of a batch", "no vector"])
def test_an_embedder_that_cannot_be_adopted_is_refused_and_leaves_nothing(
    adopt_edited: Callable[..., Path], tmp_path: Path, edit: Callable[[ModelProto], object], fusion: Fusion
) -> None:
    with pytest.raises(BundleError):
        adopt_edited(edit, fusion)
    assert names_in(tmp_path / "bundles") == set()


@pytest.mark.parametrize("name", ["card.json", "detector.onnx", "embedder.onnx"])
def test_a_damaged_bundle_is_replaced_by_a_sound_one(
    data: Path, tiny_in_use: Path, tiny_recipe: BundleRecipe, files: Files, name: str
) -> None:
    made = open_bundle(tiny_in_use).card
    (tiny_in_use / name).write_bytes((tiny_in_use / name).read_bytes()[:-9])
    assert adopt(tiny_recipe, *files, data) == tiny_in_use
    assert open_bundle(data / "bundles" / "tiny").card == made


def test_a_card_that_was_edited_since_is_replaced(
    data: Path, tiny_in_use: Path, tiny_recipe: BundleRecipe, files: Files
) -> None:
    made = open_bundle(tiny_in_use).card
    card = json.loads((tiny_in_use / CARD_FILE).read_text(encoding="utf-8"))
    card["licence"]["commercial_use"] = False  # still a valid card
    (tiny_in_use / CARD_FILE).write_text(json.dumps(card), encoding="utf-8")
    assert open_bundle(adopt(tiny_recipe, *files, data)).card == made
    assert open_bundle(data / "bundles" / "tiny").card == made


def test_a_process_that_was_quicker_is_no_failure(
    tmp_path: Path, tiny_recipe: BundleRecipe, files: Files, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two machines may pull into one shared folder; here the other one finishes just before this one's last step.
    replace_path = Path.replace

    def late(self: Path, target: Path) -> Path:
        if target.name == tiny_bundle.name and not target.exists():
            shutil.copytree(tiny_bundle, target)
        return replace_path(self, target)

    monkeypatch.setattr(Path, "replace", late)
    folder = adopt(tiny_recipe, *files, tmp_path)
    assert folder.name == tiny_bundle.name
    assert open_bundle(tmp_path / "bundles" / "tiny").card.name == "tiny"
