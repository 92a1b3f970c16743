"""PCA before the cosine: y = C (x − μ), as SphereFace and center loss were tested.

Source: Wen, Zhang, Li, Qiao, "A Discriminative Feature Learning Approach for Deep Face Recognition", ECCV 2016,
doi 10.1007/978-3-319-46478-7_31, section 4.1. It is to be fitted to other photos than it is tested on.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidRequest

Floats = NDArray[np.floating[Any]]


def fit_pca(embeddings: Floats, components: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The mean μ, (d,), and the components C, (k, d) with orthonormal rows, largest variance first.

    A component may have either sign: its largest entry is made positive, so that the same input gives the same C.

    Args:
        embeddings: (n, d).
        components: k; d of them only centre and rotate.

    Raises:
        InvalidRequest: fewer than 2 or more than d components, or not more embeddings than components.
    """
    n, d = embeddings.shape
    if not 2 <= components <= d:
        raise InvalidRequest(f"A PCA of {d} dimensions has 2 to {d} components, not {components}.")
    if n <= components:
        raise InvalidRequest(
            f"{n} embeddings do not determine {components} components; give at least {components + 1}."
        )
    mean = embeddings.mean(axis=0, dtype=np.float64)
    centred = embeddings - mean
    axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1].T[:components]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    return mean.astype(np.float32), (axes * np.sign(largest)).astype(np.float32)


def project(embeddings: Floats, mean: Floats, components: Floats) -> NDArray[np.float32]:
    """(n, k) C (x − μ) of unit length; zeros where that is zero."""
    projected = (embeddings.astype(np.float64) - mean) @ components.T
    lengths = np.linalg.norm(projected, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (projected / np.maximum(lengths, np.finfo(np.float64).tiny)).astype(np.float32)
    return unit
