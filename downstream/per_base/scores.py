"""Scores of per-base predictions: of bases by class, and of segments, the runs of bases of one class."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve

from .labels import IGNORED

RECALLS = np.linspace(0, 1, 101)  # where precision-recall curves are stored
_STRETCH = 10_000  # bases that the bootstrap draws together: neighbouring bases are not independent


def score_bases(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    decoded: NDArray[np.int64],
    lengths: Sequence[int],
    classes: Sequence[str],
    *,
    resamples: int,
) -> dict[str, Any]:
    """All scores, as JSON holds them; what is undefined (a class without a base) is None.

    Args:
        labels: (L,) of all test regions, one after the other; IGNORED where nothing is scored.
        probabilities: (L, classes), finite, for AUPRC. decoded: (L,) predicted classes, for all other scores.
        lengths: bases of each region.
        resamples: of the bootstrap over stretches of 10,000 bases.
    """
    predicted = np.where(labels == IGNORED, IGNORED, decoded)
    confusion = _confusion(labels, predicted, lengths, len(classes))
    f1 = f1_scores(confusion.sum(axis=0))
    auprc = average_precisions(labels, probabilities)
    bases = confusion.sum(axis=(0, 2))
    borders = np.cumsum(lengths)[:-1]
    regions = list(zip(np.split(labels, borders), np.split(predicted, borders), strict=True))
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(confusion), (resamples, len(confusion)))
    resampled = [float(np.nanmean(f1_scores(confusion[rows].sum(axis=0)))) for rows in drawn]
    by_class = {
        name: {
            "bases": int(bases[number]),
            "f1": _number(f1[number]),
            "auprc": _number(auprc[number]),
            **segment_scores(regions, number),
            "precision_at_recall": _curve(labels, probabilities, number),
        }
        for number, name in enumerate(classes)
    }
    return {
        "bases": int(bases.sum()),
        "macro_f1": _number(float(np.nanmean(f1))),
        "macro_f1_interval": [float(value) for value in np.quantile(resampled, [0.025, 0.975])],
        "macro_auprc": _number(float(np.nanmean(auprc))),
        "classes": by_class,
    }


def average_precisions(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """(classes,) AUPRC of each class against the rest; NaN where a class has no base."""
    scored = labels != IGNORED
    truth, table = labels[scored], probabilities[scored]
    return np.array([
        average_precision_score(truth == number, table[:, number]) if (truth == number).any() else np.nan
        for number in range(table.shape[1])
    ])  # fmt: skip


def f1_scores(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """(classes,) F1 from counts (classes, classes), truth by prediction; NaN where a class has no base."""
    hits, true, predicted = np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    return np.where(true > 0, 2 * hits / np.maximum(true + predicted, 1), np.nan)


def segment_scores(
    regions: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], number: int
) -> dict[str, float | int | None]:
    """F1 of the segments of class `number`: those with both ends right, and those with an overlap of half the union.

    Args:
        regions: true and predicted labels (L,) of each region. A segment ends where its region ends.

    Returns:
        `segments`, how many there are; `segment_f1_exact`; `segment_f1_overlap`, where a segment counts as found if
        intersection / union with one predicted segment is at least 0.5.
    """
    true = predicted = exact = overlapping = 0
    for labels, guesses in regions:
        ours, theirs = _segments(labels == number), _segments(guesses == number)
        true, predicted = true + len(ours), predicted + len(theirs)
        exact += len(set(map(tuple, ours.tolist())) & set(map(tuple, theirs.tolist())))
        overlapping += _overlapping(ours, theirs)
    whole = true + predicted
    return {
        "segments": true,
        "segment_f1_exact": 2 * exact / whole if true else None,
        "segment_f1_overlap": 2 * overlapping / whole if true else None,
    }


def _segments(marked: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(n, 2) starts and ends of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2)


def _overlapping(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> int:
    """Pairs with intersection / union >= 0.5; each segment is in one pair at most."""
    if not len(ours) or not len(theirs):
        return 0
    paired: tuple[set[int], set[int]] = (set(), set())
    for row, (start, end) in enumerate(ours):
        first = np.searchsorted(theirs[:, 1], start, "right")
        last = np.searchsorted(theirs[:, 0], end)
        for column in range(first, last):
            shared = min(end, theirs[column, 1]) - max(start, theirs[column, 0])
            union = max(end, theirs[column, 1]) - min(start, theirs[column, 0])
            if 2 * shared >= union:  # only where it is exactly half can a segment have two partners
                paired[0].add(row)
                paired[1].add(int(column))
    return min(len(paired[0]), len(paired[1]))


def _confusion(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], lengths: Sequence[int], classes: int
) -> NDArray[np.int64]:
    """(stretches, classes, classes) counts of bases, truth by prediction."""
    found = []
    for part in stretches(lengths):
        scored = labels[part] != IGNORED
        cells = labels[part][scored] * classes + predicted[part][scored]
        found.append(np.bincount(cells, minlength=classes**2).reshape(classes, classes))
    return np.stack(found)


def stretches(lengths: Sequence[int]) -> Iterator[slice]:
    """What the bootstrap draws together, of regions of these lengths that lie one after the other."""
    for end, length in zip(np.cumsum(lengths), lengths, strict=True):
        for start in range(end - length, end, _STRETCH):
            yield slice(start, min(start + _STRETCH, end))


def _curve(labels: NDArray[np.int64], probabilities: NDArray[np.float32], number: int) -> list[float] | None:
    """The best precision at each of RECALLS or more; None where the class has no base."""
    scored = labels != IGNORED
    truth = labels[scored] == number
    if not truth.any():
        return None
    precision, recall, _ = precision_recall_curve(truth, probabilities[scored, number])
    best = np.maximum.accumulate(precision)  # recall falls, so these are the precisions at this recall or more
    return [round(float(value), 5) for value in best[len(recall) - 1 - np.searchsorted(recall[::-1], RECALLS)]]


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
