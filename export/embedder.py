"""Rewrites an embedder so that its graph carries its own contract.

In: ``float32 [1, 3, s, s]``, one aligned crop, s being 112 in all that are published. Out: ``crops`` uint8
``[n, s, s, 3]`` RGB to ``embedding`` float32 ``[n, d]`` of unit length and ``feature_norm`` float32 ``[n]``, its length
before normalisation.
"""

from collections.abc import Mapping

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from export import graph as g
from export.projection import Projection
from service.errors import BundleError
from service.runtime.card import Fusion, Preprocessing

CROP_SIZE = 112


# The network is given plain pixels: nothing to normalise, or it does so itself.
PLAIN = Preprocessing(channels="RGB", mean=0.0, scale=1.0)


def adopt_embedder(
    model: ModelProto,
    preprocessing: Preprocessing,
    fusion: Fusion,
    metadata: Mapping[str, str],
    projection: Projection | None = None,
    size: int = CROP_SIZE,
) -> ModelProto:
    """Return the self-contained graph; ``model`` is changed in place.

    Flip fusion (every crop and its mirror image through the network): ``sum`` adds the two features, ``concat``
    joins them, both before the L2 norm, as is usual in LFW protocols since DeepID2 (Sun et al. 2014). A projection
    follows the L2 norm and is followed by another; ``feature_norm`` stays the length of the fused feature.

    Raises:
        BundleError: the graph is not an embedder of ``size`` pixels with one image input and one ``[1, d]`` output.
    """
    graph = model.graph
    known = g.weights(graph)
    images = [i for i in graph.input if i.name not in known]
    if len(images) != 1 or len(graph.output) != 1:
        raise BundleError(
            f"An embedder has one image input and one output, this graph has {len(images)} and {len(graph.output)}."
        )
    shape = [d.dim_value for d in images[0].type.tensor_type.shape.dim]
    if shape[1:] != [3, size, size]:
        raise BundleError(f"An embedder takes [n, 3, {size}, {size}], this graph takes {shape}.")
    features, features_dim = graph.output[0].name, feature_dimension(model)

    g.drop_identities(graph)
    g.fold_constants(model)
    before = _prepare(graph, images[0].name, preprocessing, fusion)
    after, fused, dimension = _fuse(model, features, features_dim, fusion)
    after.append(g.reduce(model, "ReduceL2", fused, "feature_norm", axis=1))
    if projection is None:
        after += _normalise(model, fused, "embedding")
    else:
        after += [*_normalise(model, fused, "unit"), *_project(model, projection)]
        dimension = len(projection.components)
    body = list(graph.node)
    del graph.node[:]
    graph.node.extend([*before, *body, *after])
    g.replace_io(
        graph,
        [g.images_input("crops", size, size)],
        [
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", dimension]),
            helper.make_tensor_value_info("feature_norm", TensorProto.FLOAT, ["n"]),
        ],
    )
    return g.finish(model, metadata)


def feature_dimension(model: ModelProto) -> int:
    """Length of the feature vector that an embedder gives for one crop.

    Raises:
        BundleError: the graph does not say.
    """
    output = model.graph.output[0]
    shape = output.type.tensor_type.shape.dim
    if not shape or shape[-1].dim_value < 2:
        found = shape[-1].dim_value if shape else 0
        raise BundleError(f"The embedding dimension of output {output.name!r} is not known: {found}.")
    return int(shape[-1].dim_value)


def _prepare(graph: GraphProto, image: str, preprocessing: Preprocessing, fusion: Fusion) -> list[NodeProto]:
    """Nodes from ``crops`` to the network's own input, ``[2n, ...]`` where the mirror images run too."""
    source = "crops"
    nodes: list[NodeProto] = []
    if fusion != "none":
        # Reversed along the width while still uint8; -1 start and INT64_MIN end are ONNX's way to say "all of it".
        starts = g.set_weight(graph, "mirror/start", np.array([-1], np.int64))
        ends = g.set_weight(graph, "mirror/end", np.array([np.iinfo(np.int64).min], np.int64))
        axes = g.set_weight(graph, "mirror/axis", np.array([2], np.int64))
        steps = g.set_weight(graph, "mirror/step", np.array([-1], np.int64))
        nodes += [
            helper.make_node("Slice", [source, starts, ends, axes, steps], ["mirrored"]),
            helper.make_node("Concat", [source, "mirrored"], ["crops_and_mirrored"], axis=0),
        ]
        source = "crops_and_mirrored"
    planes = image if preprocessing == PLAIN else "planes"
    nodes += g.images_to_planes(source, planes)
    if preprocessing.channels == "BGR":
        order = g.set_weight(graph, "bgr/order", np.array([2, 1, 0], np.int64))
        nodes.append(helper.make_node("Gather", [planes, order], ["planes_bgr"], axis=1))
        planes = "planes_bgr"
    if planes != image:
        mean = g.set_weight(graph, "normalise/mean", np.array(preprocessing.mean, np.float32))
        scale = g.set_weight(graph, "normalise/scale", np.array(preprocessing.scale, np.float32))
        nodes += [
            helper.make_node("Sub", [planes, mean], ["centred"]),
            helper.make_node("Div", ["centred", scale], [image]),
        ]
    return nodes


def _fuse(model: ModelProto, features: str, dimension: int, fusion: Fusion) -> tuple[list[NodeProto], str, int]:
    """Nodes from the features to the fused ones, what those are called, and their dimension."""
    if fusion == "none":
        return [], features, dimension
    pairs = g.set_weight(model.graph, "fuse/pairs", np.array([2, -1, dimension], np.int64))
    nodes = [helper.make_node("Reshape", [features, pairs], ["feature_pairs"])]  # (2, n, d)
    if fusion == "sum":
        nodes.append(g.reduce(model, "ReduceSum", "feature_pairs", "fused", axis=0))
    elif fusion == "concat":
        flat = g.set_weight(model.graph, "fuse/flat", np.array([-1, 2 * dimension], np.int64))
        nodes += [
            helper.make_node("Transpose", ["feature_pairs"], ["pairs_last"], perm=[1, 0, 2]),
            helper.make_node("Reshape", ["pairs_last", flat], ["fused"]),
        ]
        dimension *= 2
    return nodes, "fused", dimension


def _project(model: ModelProto, projection: Projection) -> list[NodeProto]:
    """Nodes from ``unit`` to ``embedding``."""
    mean = g.set_weight(model.graph, "project/mean", projection.mean)
    components = g.set_weight(model.graph, "project/components", projection.components.T)
    return [
        helper.make_node("Sub", ["unit", mean], ["unit_centred"]),
        helper.make_node("MatMul", ["unit_centred", components], ["projected"]),
        *_normalise(model, "projected", "embedding"),
    ]


def _normalise(model: ModelProto, vector: str, unit: str) -> list[NodeProto]:
    """Nodes from ``vector`` (n, d) to ``unit``, the same of unit length; a zero stays zero and is not NaN."""
    tiny = g.set_weight(model.graph, "norm/tiny", np.array(1e-12, np.float32))
    return [
        g.reduce(model, "ReduceL2", vector, f"{vector}_length", axis=1, keepdims=1),
        helper.make_node("Max", [f"{vector}_length", tiny], [f"{vector}_length_safe"]),
        helper.make_node("Div", [vector, f"{vector}_length_safe"], [unit]),
    ]
