"""The two networks behind batchers: many threads call them as if each had them alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.runtime.batcher import Batcher, BatchLimits
from service.runtime.networks import DetectorNetwork, EmbedderNetwork

Images = NDArray[np.uint8]
Outputs = tuple[NDArray[np.float32], ...]


@dataclass(frozen=True)
class NetworkBatches:
    """The largest batches of the two networks, in images and crops, and how many run at once."""

    detector: BatchLimits
    embedder: BatchLimits


def _concatenated(network: DetectorNetwork | EmbedderNetwork, questions: list[Images]) -> Sequence[Outputs]:
    """One call for all questions (n_i, h, w, 3) of equal h and w; the outputs, cut apart again."""
    if len(questions) == 1:
        return [network(questions[0])]
    outputs = network(np.concatenate(questions))
    ends = np.cumsum([len(question) for question in questions])[:-1]
    return list(zip(*(np.split(output, ends) for output in outputs), strict=True))


def _shape(images: Images) -> tuple[int, ...]:
    return images.shape[1:]


class SharedDetector:
    """A detector whose callers share batches, those of one input size at a time."""

    def __init__(self, network: DetectorNetwork, limits: BatchLimits) -> None:
        self._batcher: Batcher[Images, Outputs] = Batcher(
            lambda questions: _concatenated(network, questions), limits, name="detector", group=_shape, size=len
        )

    def __call__(self, images: Images) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """As ``DetectorNetwork``; raises what ``Batcher.ask`` raises."""
        boxes, scores, landmarks = self._batcher.ask(images)
        return boxes, scores, landmarks


class SharedEmbedder:
    """An embedder whose callers share batches."""

    def __init__(self, network: EmbedderNetwork, limits: BatchLimits) -> None:
        self._batcher: Batcher[Images, Outputs] = Batcher(
            lambda questions: _concatenated(network, questions), limits, name="embedder", group=_shape, size=len
        )

    def __call__(self, crops: Images) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """As ``EmbedderNetwork``; raises what ``Batcher.ask`` raises."""
        embeddings, norms = self._batcher.ask(crops)
        return embeddings, norms
