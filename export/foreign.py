"""Anyone's 112×112 embedder, one ONNX file in whatever form, to a bundle of its own. What ``likeness adopt`` does.

Owns what such files differ in: layout, batch, a dimension that is not declared. How pixels are given to the network
is said by whoever adopts it and never guessed.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from export import graph as g
from export.accuracy import Lfw
from export.adopt import default_alignment, make_draft
from export.catalog import BundleRecipe, CatalogFile, load_catalog
from export.embedder import CROP_SIZE, PLAIN
from export.fetch import fetch
from export.folder import check_folder, make_folder
from export.parity import Features, onnx_features
from export.pull import require_accepted
from service.errors import BundleError, InvalidRequest
from service.runtime.card import Card, Fusion, Licence, Preprocessing

Layout = Literal["nchw", "nhwc"]
_INPUT = {"nchw": [3, CROP_SIZE, CROP_SIZE], "nhwc": [CROP_SIZE, CROP_SIZE, 3]}

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
        calibration: ``calibration.json`` of an evaluation of this very bundle.
        lfw: labelled pairs to compare the accuracy before and after on.
    """

    preprocessing: Preprocessing
    licence: Licence
    layout: Layout = "nchw"
    fusion: Fusion = "sum"
    detector: str = "open"
    accepted: Collection[str] = ()
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
    model = g.load_network(path)
    image = _image(model, options.layout)
    features = onnx_features(path, planes_last=options.layout == "nhwc")
    _bring_into_form(model, image, options.layout, _dimension(path, features))
    detector = fetch(recipe.detector, downloads)
    draft = make_draft(recipe, detector, model, options.preprocessing, default_alignment())
    return make_folder(draft, (detector, features), out, options.calibration, options.lfw)


def _image(model: ModelProto, layout: Layout) -> ValueInfoProto:
    """The one input that is not a weight, if it is what the layout says; axes of unknown length may be anything."""
    known = g.weights(model.graph)
    images = [i for i in model.graph.input if i.name not in known]
    if len(images) != 1 or len(model.graph.output) != 1:
        raise BundleError(
            f"This is not an embedder: it has the inputs {[i.name for i in images]} and the outputs "
            f"{[o.name for o in model.graph.output]}; an embedder has one image input and one output."
        )
    kind = images[0].type.tensor_type
    if kind.elem_type != TensorProto.FLOAT:
        found = TensorProto.DataType.Name(kind.elem_type)
        raise BundleError(f"This embedder's input {images[0].name!r} is {found}; only FLOAT can be adopted.")
    shape = [d.dim_value for d in kind.shape.dim]
    fits = [name for name, sides in _INPUT.items() if _may_be(shape, sides)]
    if layout not in fits:
        shown = [d.dim_value or d.dim_param or "?" for d in kind.shape.dim]
        advice = f" Give --layout {fits[0]}." if fits else ""
        raise BundleError(
            f"This is not a {CROP_SIZE}×{CROP_SIZE} embedder of layout {layout}: its input {images[0].name!r} has the "
            f"shape {shown}, expected {['n', *_INPUT[layout]]}.{advice}"
        )
    image: ValueInfoProto = images[0]
    return image


def _may_be(shape: list[int], sides: list[int]) -> bool:
    return len(shape) == 4 and all(found in (0, side) for found, side in zip(shape[1:], sides, strict=True))


def _dimension(path: Path, features: Features) -> int:
    """Length of what the network as it was published gives for one crop."""
    try:
        shape = features(np.zeros((1, 3, CROP_SIZE, CROP_SIZE))).shape
    except Exception as error:  # ONNX Runtime raises a private exception class per status code
        raise BundleError(f"{path.name} cannot be run on one crop: {error}") from error
    if len(shape) != 2 or shape[0] != 1 or shape[1] < 2:
        raise BundleError(
            f"{path.name} is not an embedder: for one crop it gives the shape {list(shape)}, expected [1, d]."
        )
    return int(shape[1])


def _bring_into_form(model: ModelProto, image: ValueInfoProto, layout: Layout, dimension: int) -> None:
    """Change the graph, in place, into what ``adopt_embedder`` takes: planes in, a declared dimension, any batch.

    A Reshape to [1, ...] fixes the batch; 0 in the place of that 1 keeps it as it comes. Whether no more than that
    was changed, parity shows.
    """
    graph = model.graph
    if layout == "nhwc":
        network_input, image.name = image.name, f"{image.name}/planes"
        graph.node.insert(0, helper.make_node("Transpose", [image.name], [network_input], perm=[0, 2, 3, 1]))
    for value, shape in ((image, [1, *_INPUT["nchw"]]), (graph.output[0], [1, dimension])):
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, shape))
    constants = g.weights(graph)
    of_the_image = {image.name}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        if of_the_image.isdisjoint(node.input):
            continue
        of_the_image.update(node.output)
        if node.op_type == "Reshape" and node.input[1] in constants:
            target = constants[node.input[1]]
            if len(target) > 1 and target[0] == 1:
                free = np.array([0, *target[1:]], np.int64)
                node.input[1] = g.set_weight(graph, f"{node.output[0]}/shape", free)


def _recipe(path: Path, name: str, options: AdoptOptions) -> BundleRecipe:
    content = path.read_bytes()
    return BundleRecipe(
        name=name,
        version="1",
        description=f"Adopted from {path.name}.",
        detector=load_catalog().bundle(options.detector).detector,
        embedder=CatalogFile(
            name=path.name,
            role="embedder",
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            licence=options.licence,
            official="",
            mirrors=(),
        ),
        fusion=options.fusion,
    )
