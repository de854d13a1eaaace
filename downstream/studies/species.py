"""Whether genomes are cut alike at the same k-mers: agreement of k-mer cutting propensities between species."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cutters import Cuts


def consistency_table(
    letters: Mapping[str, Sequence[str]], cuts: Mapping[str, Sequence[Cuts]], *, k: int, seen: int
) -> list[dict[str, Any]]:
    """A row for each segmentation and pair of genomes.

    The propensity of a k-mer is how often a token starts in its middle (at base k // 2). Agreement is the Pearson
    correlation of the two genomes' propensities over k-mers that both hold at least `seen` times; no alignment is
    needed. A segmentation that ignores the letters (k-mers) has no agreement. The ceiling is the same correlation
    between two halves of the first genome (alternating stretches of 1,024 bases); only sampling noise keeps it below 1.
    """
    rows = []
    segmentations = list(next(iter(cuts.values()))[0])
    names = list(letters)
    counted = {
        (name, segmentation): [
            _propensity(letters[name], [one[segmentation] for one in cuts[name]], k, half) for half in (None, 0, 1)
        ]
        for name in names
        for segmentation in segmentations
    }
    for segmentation in segmentations:
        for number, first in enumerate(names):
            for second in names[number + 1 :]:
                value, kmers = _agreement(counted[first, segmentation][0], counted[second, segmentation][0], seen)
                ceiling, _ = _agreement(counted[first, segmentation][1], counted[first, segmentation][2], seen)
                rows.append({
                    "tokens": segmentation, "genome": first, "other": second, "k-mers": kmers, "agreement": value,
                    "ceiling": ceiling, "bases per token": _mean_length(cuts[first], segmentation),
                    "other's": _mean_length(cuts[second], segmentation),
                })  # fmt: skip
    return rows


_Counts = tuple[NDArray[np.int64], NDArray[np.int64]]  # occurrences of each k-mer, and those with a cut in the middle


def _propensity(letters: Sequence[str], starts: Sequence[NDArray[np.bool_]], k: int, half: int | None) -> _Counts:
    table = np.full(256, -1, np.int64)
    for code, letter in enumerate("ACGT"):
        table[[ord(letter), ord(letter.lower())]] = code
    seen, cut = np.zeros(4**k, np.int64), np.zeros(4**k, np.int64)
    for text, part in zip(letters, starts, strict=True):
        codes = table[np.frombuffer(text.encode("latin-1"), np.uint8)]
        if len(codes) < k:
            continue
        windows = np.lib.stride_tricks.sliding_window_view(codes, k)
        places = np.flatnonzero((windows >= 0).all(1))
        if half is not None:
            places = places[
                places // 1024 % 2 == half
            ]  # whole stretches, because neighbouring cuts depend on one another
        numbers = windows[places] @ (4 ** np.arange(k - 1, -1, -1))
        seen += np.bincount(numbers, minlength=4**k)
        cut += np.bincount(numbers, weights=part[places + k // 2], minlength=4**k).astype(np.int64)
    return seen, cut


def _agreement(one: _Counts, other: _Counts, seen: int) -> tuple[float, int]:
    both = (one[0] >= seen) & (other[0] >= seen)
    if both.sum() < 3:
        return float("nan"), int(both.sum())
    x, y = one[1][both] / one[0][both], other[1][both] / other[0][both]
    if x.std() == 0 or y.std() == 0:
        return float("nan"), int(both.sum())
    return float(np.corrcoef(x, y)[0, 1]), int(both.sum())


def _mean_length(cuts: Sequence[Cuts], segmentation: str) -> float:
    return sum(len(one[segmentation]) for one in cuts) / max(1, sum(int(one[segmentation].sum()) for one in cuts))
