"""A PCA as part of the embedder's graph: y = C (x − μ) of an embedding x, then the cosine of two y.

Fitting it is the work of ``service.evaluation.pca``, so that what is exported is what was evaluated.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidRequest

UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Projection:
    """A fitted PCA.

    Attributes:
        mean: μ, float32 (d,).
        components: C, float32 (k, d), orthonormal rows, largest variance first.
    """

    mean: NDArray[np.float32]
    components: NDArray[np.float32]

    def digest(self) -> str:
        """sha256 of the numbers, for the embedding contract."""
        return hashlib.sha256(self.mean.tobytes() + self.components.tobytes()).hexdigest()


def read_embeddings(path: Path) -> NDArray[np.float64]:
    """Embeddings (n, d) of unit length from a ``.npy`` file.

    Raises:
        InvalidRequest: it cannot be read, or holds something else.
    """
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidRequest(f"{path} cannot be read as .npy: {error}") from error
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind != "f":
        raise InvalidRequest(f"{path} holds no table of embeddings, float (n, d), but {_kind(found)}.")
    embeddings = found.astype(np.float64)
    lengths = np.linalg.norm(embeddings, axis=1)
    # Compared so that a NaN does not pass.
    if not (np.abs(lengths - 1) <= UNIT_TOLERANCE).all():
        raise InvalidRequest(f"{path} holds rows that are not of unit length; give embeddings as the service does.")
    return embeddings


def _kind(found: object) -> str:
    return f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else type(found).__name__
