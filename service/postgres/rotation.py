"""What stands for a person in the database: the template, turned by a secret rotation and rounded to float16.

Turning all vectors together keeps the angles between them, so that the database can compare what it cannot read:
whoever has the vectors alone cannot tell what direction stands for what, and can make no face of them. It is not
encryption: whoever also has the templates of some of the persons can work out the rotation.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.gallery.vectors import Vectors

# What the secret is derived from the service's own for.
PURPOSE = "likeness search rotation 1"
# Of rounding to float16: half a unit in the last of 11 bits, and half of the smallest step near 0.
RELATIVE, SMALLEST = 2.0**-11, 2.0**-25
# Of sums in float32, a component: FMA or not, in whatever order.
SUMMED = 2.0**-23
Halves = NDArray[np.float16]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Turned:
    """Vectors as the database has them.

    Attributes:
        halves: float16 (n, d).
        errors: float64 (n,), how far rounding moved each, a norm.
    """

    halves: Halves
    errors: Floats


class Rotation:
    """An orthogonal matrix that follows from a secret, the same on all replicas."""

    def __init__(self, secret: bytes, dimension: int) -> None:
        self._matrix = _orthogonal(secret, dimension)

    @property
    def dimension(self) -> int:
        return len(self._matrix)

    def turn(self, vectors: Vectors) -> Turned:
        """Vectors, float32 (n, d), turned and rounded."""
        whole = vectors.astype(np.float64) @ self._matrix
        halves = whole.astype(np.float16)
        return Turned(halves, np.linalg.norm(halves.astype(np.float64) - whole, axis=1))


def score_errors(probes: Turned) -> Floats:
    """How far the database's score of each probe with any unit template may be from their exact inner product, (q,).

    With the rounded x̂, q̂: |x̂·q̂ - x·q| ≤ ‖x̂‖·‖q̂ - q‖ + ‖x̂ - x‖·‖q‖, and the sum in float32 adds its own.
    """
    dimension = probes.halves.shape[1]
    lengths = np.linalg.norm(probes.halves.astype(np.float64), axis=1)
    # Templates are of unit length but for a percent, see ``PersonRows``.
    longest = 1.01
    rounded = RELATIVE * longest + SMALLEST * dimension**0.5
    errors: Floats = (longest + rounded) * probes.errors + rounded * (lengths + probes.errors)
    errors += SUMMED * dimension * longest * np.maximum(1.0, lengths)
    return errors


def _orthogonal(secret: bytes, dimension: int) -> Floats:
    """Uniform among all rotations and reflections: the orthogonal part of a matrix of independent normal numbers."""
    count = dimension * dimension
    stream = hashlib.shake_256(b"likeness rotation" + dimension.to_bytes(4, "big") + secret).digest(16 * count)
    words = np.frombuffer(stream, "<u8").astype(np.float64)
    uniform = (words.reshape(2, count) + 0.5) * 2.0**-64
    normal = np.sqrt(-2 * np.log(uniform[0])) * np.cos(2 * np.pi * uniform[1])
    q, r = np.linalg.qr(normal.reshape(dimension, dimension))
    # Which of ±column it is, LAPACK is free to choose.
    matrix: Floats = q * np.where(np.diag(r) < 0, -1.0, 1.0)
    return matrix
