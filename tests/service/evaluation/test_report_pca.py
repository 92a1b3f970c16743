"""Figures after a PCA, beside the plain ones: what it is fitted to, written out in loops."""

from pathlib import Path

import numpy as np
import pytest

from service.errors import InvalidRequest
from service.evaluation.lfw import evaluate_lfw
from service.evaluation.pca import fit_pca, project
from service.evaluation.photos import EmbedPhoto
from service.evaluation.report import summary, write_report
from service.evaluation.verification import VerificationResult

MODEL = {"embedding_contract": "c0ffee" + "0" * 58, "detector": "dec0de" + "0" * 58}


@pytest.fixture
def result(tmp_path: Path, lfw_tree: tuple[Path, Path], embed_photo: EmbedPhoto) -> VerificationResult:
    """Five folds of two persons each; one impostor pair of the first fold is of a person of the second, too."""
    rng = np.random.default_rng(3)
    lines = ["5\t8"]
    for fold in range(5):
        a, b = f"P_{2 * fold:02d}", f"P_{2 * fold + 1:02d}"
        for _ in range(8):
            i, j = rng.choice(5, 2, replace=False) + 1
            lines.append(f"{rng.choice([a, b])}\t{i}\t{j}")
        for k in range(8):
            i, j = rng.integers(1, 6, 2)
            lines.append(f"{a}\t{i}\t{'P_02' if fold == 0 and k == 0 else b}\t{j}")
    (tmp_path / "wide.txt").write_text("\n".join(lines))
    return evaluate_lfw(embed_photo, lfw_tree[0], tmp_path / "wide.txt", workers=2)


def slowly(result: VerificationResult, components: int) -> list[list[float]]:
    """The scores of all pairs as each fold has them; undetected ones are -inf."""
    row_of = {name: row for row, name in enumerate(result.photos.names)}
    scores = []
    for fold in range(5):
        tested = {name[:4] for pair in result.pairs if pair.fold == fold for name in (pair.first, pair.second)}
        others = {name for pair in result.pairs if pair.fold != fold for name in (pair.first, pair.second)}
        fit = [row_of[name] for name in sorted(others) if name[:4] not in tested]
        fit = [row for row in fit if result.photos.detected[row]]
        vectors = project(result.photos.embeddings, *fit_pca(result.photos.embeddings[fit], components))
        own = []
        for pair in result.pairs:
            a, b = row_of[pair.first], row_of[pair.second]
            found = result.photos.detected[a] and result.photos.detected[b]
            own.append(float(vectors[a].astype(np.float64) @ vectors[b]) if found else -np.inf)
        scores.append(own)
    return scores


def test_the_pca_of_a_fold_has_seen_nobody_whom_it_is_tested_on(result: VerificationResult) -> None:
    found = result.similarity_after_pca(6)
    assert found.shape == (5, 80)
    for own, expected in zip(found, slowly(result, 6), strict=True):
        assert own.tolist() == pytest.approx(expected, abs=1e-6)
    assert np.isinf(found).any()
    compared = np.isfinite(found[0])
    assert np.abs(found[0, compared] - found[1, compared]).max() > 0.01


def test_its_figures_stand_beside_the_plain_ones(result: VerificationResult, tmp_path: Path) -> None:
    plain = write_report(result, tmp_path / "plain", MODEL)
    report = write_report(result, tmp_path / "pca", MODEL, components=6)
    assert {name: value for name, value in report.items() if name != "pca"} == plain
    assert (tmp_path / "pca" / "pairs.csv").read_bytes() == (tmp_path / "plain" / "pairs.csv").read_bytes()
    same = np.array([pair.genuine for pair in result.pairs])
    fold_of = np.array([pair.fold for pair in result.pairs])
    accuracy, tested = [], np.empty(80)
    for fold, own in enumerate(slowly(result, 6)):
        scores, test = np.array(own), fold_of == fold
        tested[test] = scores[test]
        right = {t: np.sum((scores[~test] >= t) == same[~test]) for t in sorted(set(own) - {-np.inf})}
        best = max(right, key=lambda t: (right[t], -t))
        accuracy.append(np.mean(((scores[test] >= best) == same[test]) & np.isfinite(scores[test])))
    pca = report["pca"]
    assert (pca["components"], pca["fitted_to"]) == (6, "the photos of the other folds")
    assert [fold["accuracy"] for fold in pca["folds"]] == pytest.approx(accuracy)
    assert pca["accuracy"] == pytest.approx(np.mean(accuracy))
    [at] = pca["tar_at_far"]
    assert at["tar"] == np.mean(tested[same] > np.sort(tested[~same])[-1 - 4])
    assert (pca["accuracy"], pca["eer"]) != (plain["accuracy"], plain["eer"])
    lines = summary(report).splitlines()
    assert [line[:16].rstrip() for line in lines if line.startswith("PCA")] == [
        *("PCA", "PCA accuracy", "PCA threshold", "PCA TAR at FAR 1", "PCA EER")
    ]


def test_a_pca_of_one_fold_or_of_too_few_photos_is_refused(
    result: VerificationResult, lfw_tree: tuple[Path, Path], embed_photo: EmbedPhoto, tmp_path: Path
) -> None:
    (tmp_path / "one.txt").write_text("1\t1\nP_00\t1\t2\nP_00\t1\tP_01\t1\n")
    one = evaluate_lfw(embed_photo, lfw_tree[0], tmp_path / "one.txt", workers=1)
    with pytest.raises(InvalidRequest, match="one fold"):
        write_report(one, tmp_path / "out", MODEL, components=3)
    with pytest.raises(InvalidRequest, match="do not determine 192 components"):
        write_report(result, tmp_path / "out", MODEL, components=192)
    assert not (tmp_path / "out").exists()
