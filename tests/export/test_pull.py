"""``pull``: what is sound stays as it is, what is not is made again; all without any network."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from export.catalog import BundleRecipe, Catalog
from export.pull import Pulled, pull
from service.errors import BundleError, DownloadError
from service.runtime.bundle import CARD_FILE, open_bundle
from service.runtime.card import EmbeddingContract
from service.runtime.networks import RuntimeOptions, open_networks

pytestmark = pytest.mark.usefixtures("offline")

PULL_AGAIN = """
import sys
from pathlib import Path
from export.pull import pull
pulled = pull("open", Path(sys.argv[1]))
print(pulled.fresh, pulled.path, sorted({"onnx", "insightface", "onnxruntime", "cv2", "requests"} & set(sys.modules)))
"""


@pytest.fixture
def catalogue(monkeypatch: pytest.MonkeyPatch, tiny_recipe: BundleRecipe) -> Callable[[BundleRecipe], None]:
    """Puts a recipe into the catalogue that ``pull`` reads; the tiny one is there from the beginning."""

    def put(recipe: BundleRecipe) -> None:
        catalog = Catalog({file.name: file for file in recipe.files}, {recipe.name: recipe})
        monkeypatch.setattr("export.pull.load_catalog", lambda: catalog)

    put(tiny_recipe)
    return put


def states(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_ino, path.lstat().st_mtime_ns) for path in folder.rglob("*")}


def test_the_default_bundle_is_made_from_the_published_files_alone(pulled: Pulled) -> None:
    link = pulled.path.parent / "open"
    assert pulled.fresh
    assert pulled.path.name.startswith("open-")
    assert link.is_symlink()
    assert link.resolve() == pulled.path.resolve()
    card = open_bundle(link).card
    assert card == pulled.card
    assert (card.name, card.contract.fusion, card.contract.dimension) == ("open", "sum", 128)
    assert card.licence.commercial_use


def test_a_second_pull_changes_nothing_and_loads_neither_onnx_nor_insightface(pulled: Pulled) -> None:
    bundles = pulled.path.parent
    before = states(bundles)
    done = subprocess.run(
        [sys.executable, "-c", PULL_AGAIN, str(bundles.parent)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"False {pulled.path.resolve()} []"
    assert states(bundles) == before


@pytest.mark.usefixtures("catalogue")
def test_a_sound_bundle_needs_no_published_file(data: Path, tiny_in_use: Path) -> None:
    (data / "downloads").rename(data / "elsewhere")
    before = states(data / "bundles")
    pulled = pull("tiny", data)
    assert not pulled.fresh
    assert pulled.card == open_bundle(tiny_in_use).card
    assert pulled.path.samefile(tiny_in_use)
    assert states(data / "bundles") == before


def test_an_unknown_bundle_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="'opne' is not in the catalogue; known: antelopev2, .*, open"):
        pull("opne", tmp_path)
    assert not list(tmp_path.iterdir())


def edit_card(*places: tuple[str, object]) -> Callable[[Path], None]:
    """Sets fields of the card, each given by its dotted place."""

    def edit(folder: Path) -> None:
        card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
        for place, value in places:
            *outer, last = place.split(".")
            part: dict[str, Any] = card
            for key in outer:
                part = part[key]
            part[last] = value
        (folder / CARD_FILE).write_text(json.dumps(card), encoding="utf-8")

    return edit


def rewrite(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return edit


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


MOVED = [[38.3, 51.7], [73.5, 51.5], [56.0, 71.7], [41.5, 92.4], [70.7, 99.0]]
DAMAGE = {
    "a flipped byte in the embedder": (rewrite("embedder.onnx", flipped), r"embedder\.onnx is not what its card says"),
    "a flipped byte in the detector": (rewrite("detector.onnx", flipped), r"detector\.onnx is not what its card says"),
    "a truncated network": (rewrite("embedder.onnx", lambda c: c[:-1]), r"embedder\.onnx has \d+ bytes, its card says"),
    "a longer network": (rewrite("detector.onnx", lambda c: c + b"\0"), r"detector\.onnx has \d+ bytes, its card says"),
    "no embedder": (remove("embedder.onnx"), r"embedder\.onnx cannot be read: No such file"),
    "no detector": (remove("detector.onnx"), r"detector\.onnx cannot be read: No such file"),
    "no card": (remove("card.json"), r"card\.json cannot be read: No such file"),
    "an empty card": (rewrite("card.json", lambda _: b""), r"card\.json: not JSON"),
    "half a card": (rewrite("card.json", lambda c: c[: len(c) // 2]), r"card\.json: not JSON"),
    "another network digest": (edit_card(("embedder.sha256", "0" * 64)), r"embedder\.onnx is not what its card says"),
    "another contract digest": (edit_card(("embedding_contract", "0" * 64)), "is not the contract's digest"),
    "another dimension": (edit_card(("contract.dimension", 32)), "is not the contract's digest"),
    "another fusion": (edit_card(("contract.fusion", "none")), "is not the contract's digest"),
    "another template": (edit_card(("contract.alignment.template", MOVED)), "is not the contract's digest"),
    "another schema": (edit_card(("schema_version", 2)), r"card schema 2 is not 1"),
    "no schema": (edit_card(("schema_version", None)), r"card schema None is not 1"),
    "a further field": (edit_card(("comment", "hello")), r"comment: Extra inputs are not permitted"),
    "not a number": (edit_card(("parity.min_cosine", float("nan"))), r"parity\.min_cosine: Input should be a finite"),
}


@pytest.mark.usefixtures("catalogue")
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_bundle_is_refused_by_name_and_made_again(
    data: Path, tiny_in_use: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    spoil, complaint = DAMAGE[damage]
    made = open_bundle(tiny_in_use).card
    spoil(tiny_in_use)
    with pytest.raises(BundleError, match=complaint) as caught:
        open_bundle(data / "bundles" / "tiny")
    again = pull("tiny", data)
    assert again.fresh
    assert again.card == made == open_bundle(data / "bundles" / "tiny").card
    assert caplog.messages == [f"{caught.value} Making it again."]


LIES = {
    "dimension": ("dimension", 32),
    "fusion": ("fusion", "none"),
    "template": ("alignment.template", MOVED),
    "preprocessing": ("preprocessing.mean", 127.5),
}


@pytest.mark.usefixtures("catalogue")
@pytest.mark.parametrize("lie", LIES)
def test_a_card_that_lies_with_a_matching_digest_is_refused_by_the_network_and_made_again(
    data: Path, tiny_in_use: Path, lie: str
) -> None:
    made = open_bundle(tiny_in_use).card
    place, value = LIES[lie]
    edit_card((f"contract.{place}", value))(tiny_in_use)
    card = json.loads((tiny_in_use / CARD_FILE).read_text(encoding="utf-8"))
    digest = EmbeddingContract.model_validate(card["contract"]).digest()
    edit_card(("embedding_contract", digest))(tiny_in_use)

    lying = open_bundle(data / "bundles" / "tiny")
    with pytest.raises(BundleError, match=rf"The card says likeness\.embedding_contract = {digest}, the network says"):
        open_networks(lying.detector, lying.embedder, lying.card.contract, RuntimeOptions("cpu"))
    pull("tiny", data)
    assert open_bundle(data / "bundles" / "tiny").card == made


@pytest.mark.usefixtures("tiny_in_use")
@pytest.mark.parametrize("change", [{"version": "2"}, {"fusion": "concat"}], ids=["version", "fusion"])
def test_a_bundle_made_from_another_recipe_is_made_again(
    data: Path, catalogue: Callable[[BundleRecipe], None], tiny_recipe: BundleRecipe, change: dict[str, Any]
) -> None:
    assert not pull("tiny", data).fresh
    catalogue(replace(tiny_recipe, **change))
    assert pull("tiny", data).fresh
    found = open_bundle(data / "bundles" / "tiny").card
    assert (found.version, found.contract.fusion) == (change.get("version", "1"), change.get("fusion", "sum"))
    assert not pull("tiny", data).fresh


def test_a_bundle_made_from_another_embedder_is_made_again(
    data: Path, catalogue: Callable[[BundleRecipe], None], tiny_recipe: BundleRecipe, tiny_embedder: Path
) -> None:
    content = tiny_embedder.read_bytes().replace(b"tiny", b"idem")  # the name of its graph
    digest = hashlib.sha256(content).hexdigest()
    cached = data / "downloads" / digest / tiny_recipe.embedder.name
    cached.parent.mkdir()
    cached.write_bytes(content)
    catalogue(replace(tiny_recipe, embedder=replace(tiny_recipe.embedder, sha256=digest)))
    assert pull("tiny", data).card.contract.weights == digest
    catalogue(tiny_recipe)
    assert pull("tiny", data).card.contract.weights == tiny_recipe.embedder.sha256


@pytest.mark.usefixtures("catalogue")
def test_force_makes_a_sound_bundle_again_and_finds_it_the_same(data: Path, tiny_in_use: Path) -> None:
    before = states(tiny_in_use)
    made = open_bundle(tiny_in_use).card
    again = pull("tiny", data, force=True)
    assert again.fresh
    assert again.card == made
    assert again.path.samefile(tiny_in_use)
    assert states(tiny_in_use) == before


@pytest.mark.usefixtures("catalogue")
def test_force_mends_a_card_that_was_edited(data: Path, tiny_in_use: Path) -> None:
    made = open_bundle(tiny_in_use).card
    edit_card(("description", "Another text."))(tiny_in_use)
    assert open_bundle(tiny_in_use).card.description == "Another text."
    assert pull("tiny", data, force=True).card == made


@pytest.mark.usefixtures("catalogue")
def test_a_damaged_copy_in_place_of_the_link_is_made_again(data: Path, tiny_in_use: Path) -> None:
    # Whoever copied the data folder with links followed has a plain folder there.
    made = open_bundle(tiny_in_use).card
    link = data / "bundles" / "tiny"
    link.unlink()
    tiny_in_use.rename(link)
    remove("embedder.onnx")(link)
    assert pull("tiny", data).card == made
    assert open_bundle(link).card == made


def test_a_wrong_published_file_is_not_adopted(
    data: Path, catalogue: Callable[[BundleRecipe], None], tiny_recipe: BundleRecipe
) -> None:
    # No mirrors: asking pip, as the catalogue would have it, takes its time to fail.
    embedder = replace(tiny_recipe.embedder, mirrors=())
    catalogue(replace(tiny_recipe, embedder=embedder))
    cached = data / "downloads" / embedder.sha256 / embedder.name
    content = flipped(cached.read_bytes())
    cached.unlink()
    cached.write_bytes(content)
    with pytest.raises(
        DownloadError, match=rf"no mirror gave tiny\.onnx \({embedder.size} bytes, sha256 {embedder.sha256}"
    ):
        pull("tiny", data)
    assert not cached.exists()
    assert not (data / "bundles").exists()
