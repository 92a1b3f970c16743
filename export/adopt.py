"""From networks to a bundle: rewrite both graphs, measure parity, write the card, all or nothing."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
from insightface.utils.face_align import arcface_dst
from onnx import ModelProto

from export.accuracy import Lfw, compare_accuracy
from export.calibration import shipped
from export.catalog import Architecture, BundleRecipe, CatalogFile
from export.centerface import adopt_centerface
from export.embedder import CROP_SIZE, PLAIN, adopt_embedder, feature_dimension
from export.embedder_file import read_embedder
from export.graph import load_network
from export.machine import fit_to_machine
from export.parity import EXACT, measure_parity, published_embedder
from export.place import move_into_place, point_link, same_but_measured, sweep, sync
from export.projection import Projection
from export.published import Features, onnx_detections
from export.scrfd import adopt_scrfd
from export.yunet import adopt_yunet
from service.errors import BundleError, DeviceError, LikenessError
from service.recognition.recognizer import Recognizer
from service.runtime.bundle import CARD_FILE, bundles_dir, card_digest, open_bundle
from service.runtime.card import (
    Alignment,
    Calibration,
    Card,
    EmbeddingContract,
    GraphForm,
    Licence,
    Network,
    Parity,
    Preprocessing,
    Source,
)
from service.runtime.networks import (
    METADATA_CONTRACT,
    METADATA_FUSION,
    EmbedderNetwork,
    RuntimeOptions,
    open_networks,
)

DETECTOR_FILE, EMBEDDER_FILE = "detector.onnx", "embedder.onnx"
_ADOPT_DETECTOR = {"yunet": adopt_yunet, "scrfd": adopt_scrfd, "centerface": adopt_centerface}


@dataclass(frozen=True)
class Draft:
    """Everything of a bundle but the parity figures.

    Attributes:
        recipe: names and describes it, and what it was made of.
        detector, embedder: the rewritten networks, as they will be served.
        graph: what was rewritten in the embedder because it is faster here.
        projection: the one that the contract names.
        calibration: None for the one that comes with this program, if there is one.
    """

    recipe: BundleRecipe
    contract: EmbeddingContract
    detector: bytes
    embedder: bytes
    graph: GraphForm | None = None
    projection: Projection | None = None
    calibration: Calibration | None = None

    def card(self, parity: Parity) -> Card:
        contract, size = self.contract.digest(), self.contract.alignment.size
        return Card(
            name=self.recipe.name,
            version=self.recipe.version,
            description=self.recipe.description,
            licence=_joint_licence(self.recipe.detector.licence, self.recipe.embedder.licence),
            detector=_network(DETECTOR_FILE, self.detector, "uint8 [n, h, w, 3] RGB", self.recipe.detector),
            embedder=_network(
                EMBEDDER_FILE,
                self.embedder,
                f"uint8 [n, {size}, {size}, 3] RGB",
                self.recipe.embedder,
            ),
            contract=self.contract,
            embedding_contract=contract,
            parity=parity,
            graph=self.graph,
            calibration=self.calibration or shipped(self.recipe.name, contract, self.recipe.detector.sha256),
            straighten=self.recipe.detector.needs_straightening,
        )


def adopt(recipe: BundleRecipe, detector: Path, embedder: Path, data_dir: Path) -> Path:
    """Make a bundle from published files and put it to use.

    Args:
        recipe: the catalogue's entry.
        detector, embedder: the published files; their digests must be the recipe's.
        data_dir: the bundle goes to ``<data_dir>/bundles``.

    Returns:
        The bundle's folder, ``bundles/<name>-<digest>``; ``bundles/<name>`` then links to it.

    Raises:
        BundleError: a file that is not what the recipe says, a graph of another kind, or parity past its limit.
    """
    for path, file in ((detector, recipe.detector), (embedder, recipe.embedder)):
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != file.sha256:
            raise BundleError(f"{path} has sha256 {found[:16]}…, the catalogue says {file.sha256[:16]}….")
    preprocessing = recipe.embedder.preprocessing or PLAIN
    network, features = read_embedder(recipe.embedder, embedder)
    draft = make_draft(recipe, detector, network, preprocessing, default_alignment())
    home = bundles_dir(data_dir)
    home.mkdir(parents=True, exist_ok=True)
    sweep(home)
    with making_bundle(draft, (detector, features), home) as folder:
        final = same_but_measured(home / recipe.name, folder) or home / f"{recipe.name}-{card_digest(folder)}"
        move_into_place(folder, final)
    point_link(home / recipe.name, final.name)
    return final


def make_draft(
    recipe: BundleRecipe,
    detector: Path,
    embedder: ModelProto,
    preprocessing: Preprocessing,
    alignment: Alignment,
    projection: Projection | None = None,
) -> Draft:
    """Rewrite both networks into the form that is served; ``embedder`` is changed in place.

    Raises:
        BundleError: a graph of another kind.
    """
    dimension = feature_dimension(embedder) * (2 if recipe.fusion == "concat" else 1)
    contract = EmbeddingContract(
        weights=recipe.embedder.sha256,
        preprocessing=preprocessing,
        alignment=alignment,
        fusion=recipe.fusion,
        dimension=dimension if projection is None else len(projection.components),
        precision="float32",
        projection=None if projection is None else projection.digest(),
    )
    stamp = {METADATA_CONTRACT: contract.digest(), METADATA_FUSION: contract.fusion}
    adopted = adopt_embedder(embedder, preprocessing, recipe.fusion, stamp, projection, alignment.size)
    fitted, form = fit_to_machine(adopted, alignment.size)
    return Draft(
        recipe,
        contract,
        serialise(_ADOPT_DETECTOR[_architecture(recipe)](load_network(detector), {})),
        serialise(fitted),
        form,
        projection,
    )


@contextmanager
def making_bundle(draft: Draft, published: tuple[Path, Features], home: Path, lfw: Lfw | None = None) -> Iterator[Path]:
    """Measure the draft, and write it into a temporary folder in ``home``, see ``written``.

    Args:
        published: what it is measured against: the detector's file, and the embedder as ``measure_parity`` takes it.
        lfw: where there are labelled pairs to compare accuracies on.

    Raises:
        BundleError: parity past its limit, or a bundle that contradicts itself.
    """
    card = draft.card(_measure(draft, published, lfw))
    with written(card, draft.detector, draft.embedder, home) as folder:
        yield folder


@contextmanager
def written(card: Card, detector: bytes, embedder: bytes, home: Path) -> Iterator[Path]:
    """Write a bundle, checked and flushed to disk, into a temporary folder in ``home``.

    Yields:
        The bundle's folder, to be renamed; what is still there afterwards is removed.
    """
    with tempfile.TemporaryDirectory(prefix=".making-", dir=home) as making:
        folder = Path(making) / "bundle"
        folder.mkdir()
        (folder / DETECTOR_FILE).write_bytes(detector)
        (folder / EMBEDDER_FILE).write_bytes(embedder)
        (folder / CARD_FILE).write_text(card.to_json(), encoding="utf-8")
        open_bundle(folder)
        sync(folder)
        yield folder


def _measure(draft: Draft, published: tuple[Path, Features], lfw: Lfw | None) -> Parity:
    """Parity of the very bytes that will be served, through the service's own runtime."""
    contract, projection = draft.contract, draft.projection
    try:
        detector, embedder = open_networks(draft.detector, draft.embedder, contract, RuntimeOptions(provider="cpu"))
        detections = onnx_detections(published[0], _architecture(draft.recipe))
        on_gpu = gpu_embedder(draft.detector, draft.embedder, contract)
        parity = measure_parity((detections, published[1]), detector, embedder, contract, projection, on_gpu)
        if lfw is None:
            return parity
        recognizer = Recognizer(detector, embedder, contract.alignment.template, contract.alignment.size)
        before = published_embedder(published[1], contract, projection)
        return parity.model_copy(update={"accuracy": compare_accuracy(lfw, recognizer, before, EXACT)})
    except LikenessError:
        raise
    except Exception as error:  # a graph that contradicts itself fails inside ONNX Runtime or numpy
        raise BundleError(f"The networks of {draft.recipe.name} cannot be run: {error}") from error


def gpu_embedder(detector: bytes, embedder: bytes, contract: EmbeddingContract) -> EmbedderNetwork | None:
    """The embedder on the GPU; None where there is none to run it."""
    try:
        return open_networks(detector, embedder, contract, RuntimeOptions(provider="cuda"))[1]
    except DeviceError:
        return None


def _architecture(recipe: BundleRecipe) -> Architecture:
    if recipe.detector.architecture is None:
        raise BundleError(f"How {recipe.detector.name} is decoded is not known; the catalogue must say.")
    return recipe.detector.architecture


def default_alignment() -> Alignment:
    """The field's 112×112 landmark positions, from insightface."""
    a, b, c, d, e = ((float(x), float(y)) for x, y in arcface_dst)
    return Alignment(size=CROP_SIZE, template=(a, b, c, d, e))


def _network(name: str, content: bytes, takes: str, published: CatalogFile) -> Network:
    source = Source(
        file=published.name,
        sha256=published.sha256,
        url=published.official or published.page,
        licence=published.licence,
    )
    return Network(file=name, sha256=hashlib.sha256(content).hexdigest(), size=len(content), input=takes, source=source)


def _joint_licence(detector: Licence, embedder: Licence) -> Licence:
    """Both apply: an SPDX conjunction, and commercial use only where both permit it."""
    spdx = detector.spdx if detector.spdx == embedder.spdx else f"{detector.spdx} AND {embedder.spdx}"
    return Licence(spdx=spdx, url=embedder.url, commercial_use=detector.commercial_use and embedder.commercial_use)


def serialise(model: ModelProto) -> bytes:
    """The bytes of a network, the same for the same graph."""
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))
