"""Anyone's 112×112 embedder, one ONNX file in whatever form, to a bundle of its own. What ``likeness adopt`` does.

How pixels are given to the network is said by whoever adopts it and never guessed.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from export.accuracy import Lfw
from export.adopt import default_alignment, make_draft
from export.catalog import BundleRecipe, load_catalog
from export.embedder import PLAIN, feature_dimension
from export.embedder_file import Layout, read_onnx_embedder
from export.fetch import fetch
from export.folder import check_folder, make_folder, own_embedder
from export.projection import NO_PCA, Pca
from export.pull import require_accepted
from service.errors import InvalidRequest
from service.runtime.card import Card, Fusion, Licence, Preprocessing

# What embedders of these projects are given; raw: pixels as they are, for those that normalise inside.
PRESETS = MappingProxyType(
    {
        "insightface": Preprocessing(channels="RGB", mean=127.5, scale=127.5),
        "facex-zoo": Preprocessing(channels="BGR", mean=127.5, scale=128.0),
        "raw": PLAIN,
    }
)


@dataclass(frozen=True)
class AdoptOptions:
    """What the file does not say.

    Attributes:
        preprocessing: how pixels are given to the network.
        licence: of the weights.
        layout: whether its input is [n, 3, 112, 112] or [n, 112, 112, 3].
        fusion: how the features of a crop and its mirror image are joined.
        detector: the catalogue bundle whose detector goes with it.
        accepted: names (SPDX) of licences without commercial use that are accepted, for the detector.
        pca: the one that follows the fusion, if one is asked for.
        calibration: ``calibration.json`` of an evaluation of this very bundle.
        lfw: labelled pairs to compare the accuracy before and after on.
    """

    preprocessing: Preprocessing
    licence: Licence
    layout: Layout = "nchw"
    fusion: Fusion = "sum"
    detector: str = "open"
    accepted: Collection[str] = ()
    pca: Pca = NO_PCA
    calibration: Path | None = None
    lfw: Lfw | None = None


def preset(name: str) -> Preprocessing:
    """Raises InvalidRequest for a name that is not among ``PRESETS``."""
    if name not in PRESETS:
        raise InvalidRequest(
            f"There is no preset {name!r}; known: {', '.join(PRESETS)}. Or give --mean, --scale and --channels."
        )
    return PRESETS[name]


def adopt_file(path: Path, out: Path, name: str, downloads: Path, options: AdoptOptions) -> Card:
    """Make the bundle ``name`` in the folder ``out`` of an embedder's ONNX file; all or nothing.

    Args:
        out: a folder that is not there yet.
        downloads: the cache of the catalogue's files.

    Raises:
        InvalidRequest: an argument that cannot be used, or a detector's licence that was not accepted.
        BundleError: not an embedder, of another layout, or parity is past its limit.
        DownloadError: the detector could not be had.
    """
    check_folder(out, name)
    if not path.is_file():
        raise InvalidRequest(f"{path} is not a file; give an embedder's ONNX file.")
    recipe = _recipe(path, name, options)
    require_accepted(f"The detector of {options.detector} is", [recipe.detector], options.accepted)
    model, features = read_onnx_embedder(path, options.layout)
    projection = options.pca.fit(feature_dimension(model), options.fusion)
    detector = fetch(recipe.detector, downloads)
    draft = make_draft(recipe, detector, model, options.preprocessing, default_alignment(), projection)
    return make_folder(draft, (detector, features), out, options.calibration, options.lfw)


def _recipe(path: Path, name: str, options: AdoptOptions) -> BundleRecipe:
    return BundleRecipe(
        name=name,
        version="1",
        description=f"Adopted from {path.name}.",
        detector=load_catalog().bundle(options.detector).detector,
        embedder=own_embedder(path, options.licence),
        fusion=options.fusion,
    )
