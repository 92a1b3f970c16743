"""From a checkpoint, of ours or published, to a network in ONNX: the only module outside ``models/`` with torch.

What becomes of the graph is ``export.embedder``'s work, as for published networks. It is compared with the backbone
itself, run by torch in float64.
"""

import copy
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import nn

from export.accuracy import Lfw
from export.adopt import make_draft
from export.catalog import Backbone, BundleRecipe, load_catalog
from export.embedder import CROP_SIZE
from export.fetch import fetch
from export.folder import check_folder, make_folder, own_embedder
from export.graph import OLDEST_OPSET, load_network
from export.projection import NO_PCA, Pca
from export.published import Features
from models.checkpoint import Card as CheckpointCard
from models.checkpoint import load_checkpoint
from models.published import published_backbone
from service.errors import BundleError, InvalidRequest
from service.runtime.card import Card, Fusion, Licence, Preprocessing

# Detectors that can go with a checkpoint, by what they are called in the catalogue.
DETECTORS = {"yunet": "face_detection_yunet_2023mar.onnx", "centerface": "centerface.onnx"}


@dataclass(frozen=True)
class ExportOptions:
    """What the checkpoint does not say.

    Attributes:
        detector: one of ``DETECTORS``.
        licence: of the weights.
        fusion: how the features of a crop and its mirror image are joined; training validates with ``sum``.
        pca: the one that follows the fusion, if one is asked for.
        calibration: ``calibration.json`` of an evaluation of this very bundle.
        lfw: labelled pairs to compare the accuracy before and after on.
    """

    detector: str
    licence: Licence
    fusion: Fusion = "sum"
    pca: Pca = NO_PCA
    calibration: Path | None = None
    lfw: Lfw | None = None


def export_checkpoint(path: Path, out: Path, downloads: Path, options: ExportOptions) -> Card:
    """Make the bundle ``out`` of a checkpoint; all or nothing. Its name is that of the folder.

    Args:
        path: as ``models.checkpoint`` writes it.
        out: a folder that is not there yet.
        downloads: the cache of the catalogue's files.

    Raises:
        InvalidRequest: an argument or a file that cannot be used.
        BundleError: the network cannot be served, or parity is past its limit.
        DownloadError: the detector could not be had.
    """
    out = out.resolve()
    check_folder(out, out.name)
    try:
        checkpoint = load_checkpoint(path)
    except ValueError as error:
        raise InvalidRequest(str(error)) from error
    trained = checkpoint.card
    recipe = _recipe(path, out.name, trained, options)
    projection = options.pca.fit(trained.dimension, options.fusion)
    detector = fetch(recipe.detector, downloads)
    draft = make_draft(
        recipe,
        detector,
        to_onnx(checkpoint.backbone, trained.alignment.size),
        Preprocessing(channels=trained.channel_order, mean=trained.mean, scale=trained.scale),
        trained.alignment,
        projection,
    )
    return make_folder(draft, (detector, torch_features(checkpoint.backbone)), out, options.calibration, options.lfw)


def published_embedder(path: Path, backbone: Backbone) -> tuple[ModelProto, Features]:
    """A checkpoint of somebody else's, in a backbone of ours: as ONNX, and what that is measured against.

    Raises:
        BundleError: the file does not hold the weights of that network.
    """
    try:
        network = published_backbone(path, backbone)
    except ValueError as error:
        raise BundleError(str(error)) from error
    return to_onnx(network, CROP_SIZE), torch_features(network)


def to_onnx(backbone: nn.Module, size: int) -> ModelProto:
    """A backbone in evaluation mode as ONNX for one image of (3, size, size), batch norms folded where it is exact.

    By torch's older exporter: the newer one needs a further package, and has no opset below 18, while the rewrites
    that published networks go through are those of opset 11.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        file = Path(folder) / "backbone.onnx"
        torch.onnx.export(
            backbone,
            (torch.zeros(1, 3, size, size),),
            file,
            dynamo=False,
            opset_version=OLDEST_OPSET,
            input_names=["image"],
            output_names=["features"],
        )
        return load_network(file)


def torch_features(backbone: nn.Module) -> Features:
    """A backbone in float64, for ``measure_parity``."""
    exact = copy.deepcopy(backbone).double()

    @torch.no_grad()
    def features(planes: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = exact(torch.from_numpy(planes)).numpy()
        return found

    return features


def _recipe(path: Path, name: str, trained: CheckpointCard, options: ExportOptions) -> BundleRecipe:
    return BundleRecipe(
        name=name,
        version="1",
        description=f"{trained.name} trained with {trained.loss}.",
        detector=load_catalog().files[DETECTORS[options.detector]],
        embedder=own_embedder(path, options.licence),
        fusion=options.fusion,
    )
