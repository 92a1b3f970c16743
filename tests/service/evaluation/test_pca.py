"""PCA against the singular value decomposition, and what projecting leaves of an angle."""

import numpy as np
import pytest

from service.errors import InvalidRequest
from service.evaluation.pca import fit_pca, project


def embeddings(seed: int = 0, n: int = 200, d: int = 12) -> np.ndarray:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(0, np.linspace(2, 0.3, d), (n, d)) + rng.normal(0, 1, d)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("components", [2, 5, 12])
def test_the_components_are_the_singular_vectors(components: int) -> None:
    given = embeddings()
    mean, found = fit_pca(given, components)
    assert (mean.dtype, found.dtype, found.shape) == (np.float32, np.float32, (components, 12))
    centred = given.astype(np.float64) - given.astype(np.float64).mean(axis=0)
    expected = np.linalg.svd(centred, full_matrices=False)[2][:components]
    assert mean == pytest.approx(given.astype(np.float64).mean(axis=0), abs=1e-7)
    assert np.abs((found * expected).sum(axis=1)) == pytest.approx(np.ones(components), abs=1e-6)
    assert (np.take_along_axis(found, np.abs(found).argmax(axis=1)[:, None], axis=1) > 0).all()


def test_projecting_is_the_formula() -> None:
    mean, components = fit_pca(embeddings(), 4)
    given = embeddings(1, 30)
    found = project(given, mean, components)
    for vector, unit in zip(given, found, strict=True):
        expected = np.array([np.dot(row.astype(np.float64), vector - mean) for row in components])
        assert unit == pytest.approx(expected / np.linalg.norm(expected), abs=1e-6)


def test_all_components_only_centre_and_rotate() -> None:
    given = embeddings()
    mean, components = fit_pca(given, 12)
    found = project(given, mean, components)
    centred = given - mean
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    assert np.allclose(found @ found.T, centred @ centred.T, atol=1e-5)


def test_the_mean_itself_gives_zeros() -> None:
    mean, components = fit_pca(embeddings(), 3)
    assert project(mean[None], mean, components).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize(
    ("n", "components", "complaint"),
    [(200, 1, "2 to 12 components, not 1"), (200, 13, "not 13"), (5, 5, "5 embeddings do not determine 5 components")],
)
def test_what_cannot_be_fitted_is_refused(n: int, components: int, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        fit_pca(embeddings(n=n), components)
