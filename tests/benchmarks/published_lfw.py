"""FaceX-Zoo's published MobileFaceNet on LFW, in our backbone and behind the recognizer that serves.

    python -m tests.benchmarks.published_lfw --weights face_recognition_mv.pkl --lfw DIR [--data-dir data]

DIR holds ``images`` and ``pairs.txt``. The detector and the alignment are those of the bundle; each crop and its mirror
image run through the network, and the two features are added. Ten folds, as ``likeness evaluate lfw``.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from models.backbones import make_backbone
from models.backbones.mobilefacenet import from_facex_zoo
from models.embed import TorchEmbedder
from models.published import read_tensors
from service.cli.evaluate import photo_embedder
from service.engine import Engine, load_engine
from service.evaluation.lfw import evaluate_lfw
from service.evaluation.metrics import cross_validated_accuracy, tar_at_far
from service.recognition.recognizer import Recognizer
from service.runtime.networks import available_cores
from service.settings import read_settings


def facex_zoo(weights: Path) -> TorchEmbedder:
    """The network as the recognizer calls an embedder."""
    network = make_backbone("mobilefacenet", dimension=512)
    network.load_state_dict(from_facex_zoo(read_tensors(weights)))
    return TorchEmbedder(network.eval(), channel_order="BGR", mean=127.5, scale=128.0)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--weights", type=Path, required=True)
    arguments.add_argument("--lfw", type=Path, required=True)
    arguments.add_argument("--data-dir", type=Path)
    args = arguments.parse_args()
    torch.set_num_threads(1)
    engine = load_engine(read_settings(data_dir=args.data_dir))
    alignment = engine.card.contract.alignment
    recognizer = Recognizer(engine.recognizer.detector, facex_zoo(args.weights), alignment.template, alignment.size)
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
