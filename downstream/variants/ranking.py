"""How well a score ranks positives above negatives: AUROC and AUPRC with bootstrap intervals.

Scores are sorted once. A resample only counts how often each variant was drawn, so that thousands of resamples cost a
few array operations. Each class is resampled by itself, so that a resample has as many positives as the data.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

LEVEL = 0.95
_CELLS = 2**22  # resamples times variants that are held at once; bounds memory

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Labels = NDArray[np.bool_]


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % percentile bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Ranking:
    """How well a score ranks.

    Attributes:
        positives, negatives: variants that have the score.
        auroc, auprc: None where a class is empty.
    """

    positives: int
    negatives: int
    auroc: Estimate | None = None
    auprc: Estimate | None = None


def rank(labels: Labels, scores: Floats, *, resamples: int, seed: int) -> Ranking:
    """Rank variants by a score; high values count as positive. Variants whose score is NaN are left out.

    Args:
        labels: (n,), True for positives.
        scores: (n,).
    """
    known = np.isfinite(scores)
    labels, scores = labels[known], scores[known]
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        return Ranking(positives, negatives)
    points = (roc_auc_score(labels, scores), average_precision_score(labels, scores))
    drawn = _bootstrap(labels, scores, resamples, seed)
    estimates = [_estimate(float(point), values) for point, values in zip(points, drawn, strict=True)]
    return Ranking(positives, negatives, *estimates)


def auroc_difference(labels: Labels, ours: Floats, theirs: Floats, *, resamples: int, seed: int) -> Estimate | None:
    """AUROC of one score minus that of another, where both have values; the resamples are the same for both.

    Returns:
        None where a class is empty.
    """
    known = np.isfinite(ours) & np.isfinite(theirs)
    labels, pair = labels[known], (ours[known], theirs[known])
    if labels.all() or not labels.any():
        return None
    points = [float(roc_auc_score(labels, scores)) for scores in pair]
    drawn = [_bootstrap(labels, scores, resamples, seed)[0] for scores in pair]
    return _estimate(points[0] - points[1], drawn[0] - drawn[1])


def _estimate(point: float, drawn: Floats) -> Estimate:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(point, float(low), float(high))


def _bootstrap(labels: Labels, scores: Floats, resamples: int, seed: int) -> Floats:
    """(2, resamples): AUROC and AUPRC. The rows of a resample depend on seed and labels only."""
    _, levels = np.unique(scores, return_inverse=True)
    counts = _resamples(levels[labels], levels[~labels], resamples, seed)
    return np.concatenate([np.stack([_auroc(*drawn), _auprc(*drawn)]) for drawn in counts], axis=1)


def _resamples(positive: Counts, negative: Counts, count: int, seed: int) -> Iterator[tuple[Counts, Counts]]:
    """How many positives and how many negatives a resample has at each level, both (resamples, levels).

    Args:
        positive, negative: the level of the score of each positive and each negative; levels count from 0 upwards.
    """
    rng = np.random.default_rng(seed)
    levels = int(max(positive.max(), negative.max())) + 1
    size = max(1, _CELLS // (len(positive) + len(negative)))
    for start in range(0, count, size):
        rows = min(size, count - start)
        yield _drawn(positive, rows, levels, rng), _drawn(negative, rows, levels, rng)


def _drawn(of: Counts, rows: int, levels: int, rng: np.random.Generator) -> Counts:
    chosen = of[rng.integers(0, len(of), (rows, len(of)))] + np.arange(rows)[:, None] * levels
    return np.bincount(chosen.ravel(), minlength=rows * levels).reshape(rows, levels)


def _auroc(positive: Counts, negative: Counts) -> Floats:
    """Share of pairs in which the positive has the higher level; equal levels count half."""
    below = negative.cumsum(1) - negative
    pairs = positive[0].sum() * negative[0].sum()
    return np.asarray((positive * (below + negative / 2)).sum(1) / pairs)


def _auprc(positive: Counts, negative: Counts) -> Floats:
    """Average precision: precision at each level, weighted by the positives at that level."""
    found = positive[:, ::-1]
    hits = found.cumsum(1)
    called = hits + negative[:, ::-1].cumsum(1)
    return np.asarray((found * hits / np.maximum(called, 1)).sum(1) / positive[0].sum())
