"""Scores of a whole set of predictions, and their bootstrap intervals; a thin layer over scikit-learn.

Nothing here averages over batches: a mean of batch-wise MCCs is not an MCC.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

NAMES = ("mcc", "f1", "accuracy", "auroc", "auprc")


def score(labels: NDArray[np.int64], probabilities: NDArray[np.float64], name: str) -> float:
    """One metric.

    Args:
        labels: (n,) true classes.
        probabilities: (n, classes), rows that sum to 1.
        name: `mcc`; `f1` (of class 1 where there are two, else macro); `accuracy`; `auroc` and `auprc` (of class 1
            where there are two, else the mean of each class against the rest).

    Returns:
        The metric; NaN for `auroc` and `auprc` where a class does not occur.
    """
    classes = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    if name == "mcc":
        return float(metrics.matthews_corrcoef(labels, predicted))
    if name == "f1":
        if classes == 2:
            return float(metrics.f1_score(labels, predicted, zero_division=0.0))
        every = list(range(classes))
        return float(metrics.f1_score(labels, predicted, labels=every, average="macro", zero_division=0.0))
    if name == "accuracy":
        return float(metrics.accuracy_score(labels, predicted))
    if name not in ("auroc", "auprc"):
        raise ValueError(f"{name!r} is none of {', '.join(NAMES)}")
    if len(np.unique(labels)) < classes:
        return float("nan")
    one = metrics.roc_auc_score if name == "auroc" else metrics.average_precision_score
    ours = [1] if classes == 2 else range(classes)
    return float(np.mean([one(labels == number, probabilities[:, number]) for number in ours]))


def all_scores(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> dict[str, float]:
    """Every metric by name."""
    return {name: score(labels, probabilities, name) for name in NAMES}


def bootstrap_interval(
    labels: NDArray[np.int64],
    predictions: Sequence[NDArray[np.float64]],
    name: str,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a metric: the rows of the test set are resampled.

    Args:
        predictions: probabilities (n, classes) of each model (seed). The metric is averaged over the models; all of
            them use the same resampled rows.

    Returns:
        Lower and upper bound at `level`.
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        rows = rng.integers(0, len(labels), len(labels))
        drawn.append(np.mean([score(labels[rows], table[rows], name) for table in predictions]))
    tail = (1 - level) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return float(low), float(high)
