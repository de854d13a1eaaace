"""AUROC, AUPRC and their intervals, against scikit-learn and against distributions whose AUROC is known."""

from statistics import NormalDist

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from dnachunker.downstream.variants import ranking
from dnachunker.downstream.variants.ranking import auroc_difference, rank


def drawn(seed: int, positives: int, negatives: int, shift: float, digits: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores; the scores of positives are normal around `shift`, rounded so that some are equal."""
    rng = np.random.default_rng(seed)
    labels = np.arange(positives + negatives) < positives
    return labels, np.round(rng.normal(size=len(labels)) + shift * labels, digits)


@pytest.mark.parametrize("digits", [9, 0])
def test_intervals_are_those_of_a_plain_bootstrap_with_scikit_learn(
    digits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, scores = drawn(0, 40, 120, 0.7, digits)
    monkeypatch.setattr(ranking, "_CELLS", 160 * 150)  # in several pieces
    found = rank(labels, scores, resamples=2000, seed=3)
    rng = np.random.default_rng(4)
    for estimate, metric in ((found.auroc, roc_auc_score), (found.auprc, average_precision_score)):
        assert estimate is not None
        assert estimate.value == pytest.approx(metric(labels, scores), abs=1e-12)
        again = []
        for _ in range(250):
            rows = np.concatenate([rng.choice(np.flatnonzero(labels == of), (labels == of).sum()) for of in (0, 1)])
            again.append(metric(labels[rows], scores[rows]))
        assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(again, [0.025, 0.975])), abs=0.03)
    assert found == rank(labels, scores, resamples=2000, seed=3)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_intervals_cover_the_true_auroc_about_as_often_as_they_promise(shift: float) -> None:
    true = NormalDist().cdf(shift / np.sqrt(2))
    covered = 0
    for seed in range(120):
        found = rank(*drawn(seed, 60, 120, shift), resamples=200, seed=seed).auroc
        assert found is not None
        covered += found.low <= true <= found.high
    assert 0.9 <= covered / 120 <= 0.985


def test_permuted_labels_give_a_half_and_a_planted_signal_is_found() -> None:
    labels, scores = drawn(1, 200, 600, 1.5)
    found = rank(labels, scores, resamples=500, seed=0)
    permuted = rank(np.random.default_rng(0).permutation(labels), scores, resamples=500, seed=0)
    assert found.auroc is not None
    assert permuted.auroc is not None
    assert permuted.auprc is not None
    assert found.auroc.low > 0.75
    assert permuted.auroc.low < 0.5 < permuted.auroc.high
    assert permuted.auprc.low < 0.25 < permuted.auprc.high


def test_variants_without_a_score_are_left_out_and_one_class_has_no_auroc() -> None:
    labels, scores = drawn(2, 30, 30, 1.0)
    holes = np.concatenate([scores, [np.nan, np.inf]])
    found = rank(np.append(labels, [True, False]), holes, resamples=50, seed=0)
    assert found == rank(labels, scores, resamples=50, seed=0)
    for of in (labels, ~labels, labels & False):
        one = rank(of[of == of[0]], scores[of == of[0]], resamples=50, seed=0)
        assert (one.auroc, one.auprc) == (None, None)
    assert one.negatives == 60


def test_a_difference_is_paired() -> None:
    labels, scores = drawn(3, 100, 200, 1.0)
    better = scores + 0.3 * labels
    found = auroc_difference(labels, better, scores, resamples=500, seed=0)
    alone = rank(labels, scores, resamples=500, seed=0).auroc
    assert found is not None
    assert alone is not None
    assert found.value == pytest.approx(roc_auc_score(labels, better) - roc_auc_score(labels, scores))
    assert 0 < found.low < found.value < found.high
    assert found.high - found.low < (alone.high - alone.low) / 2
    assert auroc_difference(labels, better, np.where(labels, np.nan, scores), resamples=5, seed=0) is None
