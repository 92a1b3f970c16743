"""FaceX-Zoo's published MobileFaceNet on LFW, in our backbone and behind the recognizer that serves.

    python -m tests.benchmarks.published_lfw --lfw DIR [--data-dir data]

DIR holds ``images`` and ``pairs.txt``. The detector and the alignment are those of the bundle; each crop and its mirror
image run through the network, and the two features are added. Ten folds, as ``likeness evaluate lfw``.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from export.catalog import load_catalog
from export.fetch import fetch
from models.embed import TorchEmbedder
from models.published import published_backbone
from service.cli.evaluate import photo_embedder
from service.engine import Engine, load_engine
from service.evaluation.lfw import evaluate_lfw
from service.evaluation.metrics import cross_validated_accuracy, tar_at_far
from service.recognition.recognizer import Recognizer
from service.runtime.networks import available_cores
from service.settings import read_settings


def facex_zoo(downloads: Path) -> TorchEmbedder:
    """The network as the recognizer calls an embedder."""
    file = load_catalog().bundle("mv").embedder
    given = file.preprocessing
    assert file.backbone is not None
    assert given is not None
    network = published_backbone(fetch(file, downloads), file.backbone)
    return TorchEmbedder(network, channel_order=given.channels, mean=given.mean, scale=given.scale)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--lfw", type=Path, required=True)
    arguments.add_argument("--data-dir", type=Path)
    args = arguments.parse_args()
    torch.set_num_threads(1)
    settings = read_settings(data_dir=args.data_dir)
    engine = load_engine(settings)
    alignment = engine.card.contract.alignment
    embedder = facex_zoo(settings.data_dir / "downloads")
    recognizer = Recognizer(engine.recognizer.detector, embedder, alignment.template, alignment.size)
    embed = photo_embedder(Engine(engine.card, recognizer, engine.providers))
    result = evaluate_lfw(embed, args.lfw / "images", args.lfw / "pairs.txt", available_cores())
    labels = np.array([pair.genuine for pair in result.pairs])
    folds = np.array([pair.fold for pair in result.pairs])
    scores = result.similarity
    accuracy = cross_validated_accuracy(scores, labels, folds, np.isfinite(scores)).accuracy
    print(f"accuracy of ten folds   {accuracy.mean():.4f} ± {accuracy.std(ddof=1):.4f}")
    for far in (1e-2, 1e-3):
        print(f"TAR at FAR {far:g}      {tar_at_far(scores[labels], scores[~labels], far):.4f}")
    print(f"{len(result.photos.undetected)} of {len(result.photos.names)} photos undetected")


if __name__ == "__main__":
    main()
