"""Scores equal those of scikit-learn on the whole set."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from dnachunker.downstream.tasks import metrics


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 4), st.integers(8, 80), st.integers(0, 2**32 - 1))
def test_scores_equal_scikit_learns(classes: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, count)])
    probabilities = rng.dirichlet(np.ones(classes), len(labels))
    predicted = probabilities.argmax(1)
    found = metrics.all_scores(labels, probabilities)
    assert found["mcc"] == sk.matthews_corrcoef(labels, predicted)
    assert found["accuracy"] == sk.accuracy_score(labels, predicted)
    average = "binary" if classes == 2 else "macro"
    assert found["f1"] == sk.f1_score(labels, predicted, average=average, zero_division=0.0)
    if classes == 2:
        assert found["auroc"] == sk.roc_auc_score(labels, probabilities[:, 1])
        assert found["auprc"] == sk.average_precision_score(labels, probabilities[:, 1])
    else:
        one_hot = np.eye(classes)[labels]
        ovr = sk.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
        assert found["auroc"] == pytest.approx(ovr, abs=1e-12)
        assert found["auprc"] == pytest.approx(sk.average_precision_score(one_hot, probabilities, average="macro"))


def test_undefined_scores_are_nan_and_the_interval_holds_the_score() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    right = np.where(rng.random(200) < 0.8, labels, 1 - labels)
    probabilities = np.eye(2)[right]
    low, high = metrics.bootstrap_interval(labels, [probabilities], "mcc", resamples=300)
    assert low < metrics.score(labels, probabilities, "mcc") < high
    assert 0.1 < high - low < 0.4  # of the order of 4 standard errors at n = 200
    assert np.isnan(metrics.score(np.zeros(5, int), np.full((5, 2), 0.5), "auroc"))
    with pytest.raises(ValueError, match="none of"):
        metrics.score(labels, probabilities, "loss")
