"""A published embedder's file, of whatever kind and form, to the graph that ``export.embedder`` rewrites.

Owns what such files differ in: a network in ONNX or weights without one; layout, batch, a dimension that is not
declared.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from export import graph as g
from export.catalog import CatalogFile
from export.embedder import CROP_SIZE
from export.published import Features, onnx_features
from service.errors import BundleError

Layout = Literal["nchw", "nhwc"]
_INPUT = {"nchw": [3, CROP_SIZE, CROP_SIZE], "nhwc": [CROP_SIZE, CROP_SIZE, 3]}
# The version stands in pyproject.toml and the Makefile too.
TORCH = "torch==2.13.0"


def require_means(file: CatalogFile) -> None:
    """Raises BundleError where a checkpoint is to be read and PyTorch is not installed; it says how to install it."""
    if file.backbone is not None and find_spec("torch") is None:
        raise BundleError(
            f"{file.name} is a checkpoint of PyTorch, and making a network of it needs PyTorch, which is not "
            f"installed: `python -m pip install {TORCH}` in this environment, then pull again. Serving needs none."
        )


def read_embedder(file: CatalogFile, path: Path) -> tuple[ModelProto, Features]:
    """The network of a catalogue's embedder in the form ``adopt_embedder`` takes, and what it is measured against.

    Raises:
        BundleError: the file is not what the catalogue says.
    """
    if file.backbone is None:
        return read_onnx_embedder(path)
    require_means(file)
    from export.checkpoint import published_embedder

    return published_embedder(path, file.backbone)


def read_onnx_embedder(path: Path, layout: Layout = "nchw") -> tuple[ModelProto, Features]:
    """The same of an ONNX file, whose input is [n, 3, 112, 112] or [n, 112, 112, 3].

    Raises:
        BundleError: not an embedder, or of another layout.
    """
    model = g.load_network(path)
    image = _image(model, layout)
    features = onnx_features(path, planes_last=layout == "nhwc")
    _bring_into_form(model, image, layout, _dimension(path, features))
    return model, features


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
