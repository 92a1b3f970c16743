"""Turned vectors against float64: angles are kept, and the bound on rounding holds."""

import numpy as np
import pytest

from service.postgres.rotation import Rotation, score_errors
from service.postgres.search import as_text
from service.postgres.vectors import copied_rows


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("dimension", [1, 16, 128])
def test_inner_products_are_kept_within_the_bound_that_is_told(dimension: int) -> None:
    rng = np.random.default_rng(dimension)
    vectors, probes = unit(rng.standard_normal((400, dimension))), unit(rng.standard_normal((50, dimension)))
    # Sparse ones round worst.
    vectors[:dimension] = np.eye(dimension, dtype=np.float32)[:400]
    rotation = Rotation(b"secret", dimension)
    rows, asked = rotation.turn(vectors), rotation.turn(probes)
    exact = probes.astype(np.float64) @ vectors.T.astype(np.float64)
    # As PostgreSQL adds up: float32, in some order.
    told = asked.halves.astype(np.float32) @ rows.halves.astype(np.float32).T
    off = np.abs(told - exact).max(axis=1)
    errors = score_errors(asked)
    assert np.all(off <= errors)
    # And it is of use: of the size of a rounding to float16, not of a guess.
    assert np.all(errors < 2e-3)


def test_the_matrix_follows_from_the_secret_alone_and_turns_everything() -> None:
    vectors = unit(np.random.default_rng(1).standard_normal((8, 64)))
    first, again, other = (Rotation(secret, 64).turn(vectors).halves for secret in (b"a", b"a", b"b"))
    assert np.array_equal(first, again)
    own = (first.astype(np.float32) * vectors).sum(axis=1)
    # No row of the table is like its template, nor like that of another installation.
    assert np.abs(own).max() < 0.6
    assert np.abs((first.astype(np.float32) * other.astype(np.float32)).sum(axis=1)).max() < 0.6


def test_a_vector_is_written_so_that_it_is_read_as_the_same_halves() -> None:
    halves = np.array([0.1, -1, 2**-24, 6.1e-5, 0.33325, 0, -0.0007], np.float16)
    text = as_text(halves)
    assert np.array_equal(np.array(text.strip("[]").split(","), np.float32).astype(np.float16), halves)
    row = copied_rows(7, np.array([9]), np.array([2]), halves[None])
    assert row[:11] == b"PGCOPY\n\xff\r\n\0"
    assert np.frombuffer(row[-2 - 14 : -2], ">f2").astype(np.float16).tolist() == halves.tolist()
