"""A PCA as part of the embedder's graph: y = C (x − μ) of an embedding x, then the cosine of two y.

Fitting it is the work of ``service.evaluation.pca``, so that what is exported is what was evaluated.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidRequest
from service.evaluation.pca import fit_pca
from service.runtime.card import Fusion

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


@dataclass(frozen=True)
class Pca:
    """A PCA that is asked for.

    Attributes:
        embeddings: a ``.npy`` file of embeddings (n, d) that the bundle without a PCA gives; None for no PCA.
        dimension: how many components stay; None for all.
    """

    embeddings: Path | None = None
    dimension: int | None = None

    def fit(self, features: int, fusion: Fusion) -> Projection | None:
        """The projection for an embedder of that many features for a crop.

        Raises:
            InvalidRequest: the embeddings cannot be read, are not of this embedder, or do not determine it.
        """
        if self.embeddings is None:
            if self.dimension is not None:
                raise InvalidRequest(f"A dimension of {self.dimension} needs a PCA; give the embeddings too.")
            return None
        found = read_embeddings(self.embeddings)
        fused = features * (2 if fusion == "concat" else 1)
        if found.shape[1] != fused:
            raise InvalidRequest(
                f"{self.embeddings} holds embeddings of {found.shape[1]} dimensions, the embedder with fusion "
                f"{fusion} gives {fused}; make them with the bundle exported without a PCA."
            )
        return Projection(*fit_pca(found, fused if self.dimension is None else self.dimension))


NO_PCA = Pca()


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
