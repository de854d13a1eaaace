"""No position is in two folds, so what is learned by heart at a position does not count."""

import numpy as np
import pytest

from dnachunker.downstream.variants.ranking import rank
from dnachunker.downstream.variants.regression import calibrate, combine, grouped_folds


def auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    found = rank(labels, scores, resamples=1, seed=0).auroc
    assert found is not None
    return found.value


def test_a_position_is_in_one_fold_and_every_variant_is_tested_once() -> None:
    rng = np.random.default_rng(0)
    sites = np.sort(rng.integers(0, 90, 300))
    labels = rng.random(300) < 0.3
    folds = grouped_folds(labels, sites, seed=0)
    assert len(folds) == 5
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(300))
    for train, test in folds:
        assert not set(sites[train]) & set(sites[test])
        assert labels[test].mean() == pytest.approx(0.3, abs=0.12)


def test_what_only_marks_the_position_is_worth_nothing_and_a_planted_signal_is_found() -> None:
    rng = np.random.default_rng(1)
    sites = np.repeat(np.arange(60), 5)
    labels = (rng.random(60) < 0.4)[sites]  # as at a position where every change does harm
    marks = rng.normal(size=(60, 40))[sites]  # enough to learn each position by heart
    folds = grouped_folds(labels, sites, seed=0)
    assert auroc(labels, combine(marks, labels, folds)) < 0.6
    torn = grouped_folds(labels, np.arange(300), seed=0)
    assert auroc(labels, combine(marks, labels, torn)) > 0.9
    planted = np.column_stack([marks[:, :2], labels + rng.normal(size=300)])
    assert auroc(labels, combine(planted, labels, folds)) > 0.7
    permuted = rng.permutation(labels)
    assert auroc(permuted, combine(planted, permuted, grouped_folds(permuted, sites, seed=0))) < 0.65


def test_a_calibrated_score_says_how_often_it_is_right() -> None:
    rng = np.random.default_rng(2)
    truth = rng.random(2000)
    labels = rng.random(2000) < truth
    found = calibrate(labels, np.append(np.exp(5 * truth[:-1]), np.nan), np.arange(2000), seed=0)
    assert found is not None
    assert found.predicted == pytest.approx(found.observed, abs=0.08)
    assert found.brier == pytest.approx(1 / 6, abs=0.01)  # the mean of p (1 - p)
    assert found.base_brier == pytest.approx(1 / 4, abs=0.01)


def test_too_few_positions_for_folds_give_none() -> None:
    labels = np.arange(30) < 3
    assert grouped_folds(labels, np.where(labels, 0, np.arange(30)), seed=0) == []  # all positives at one position
    assert calibrate(labels, np.arange(30.0), np.where(labels, 0, np.arange(30)), seed=0) is None
